"""The types that stages exchange, and the two extension points ``Policy`` and ``Reward``.

Shape legend, the same letters everywhere:
    B scenes in a batch        M frames of a scene      K completions per scene
    T completion tokens        P prompt tokens          V vocabulary
    A actions                  R reasons                H, W frame height and width in pixels

A and R are those of the label set (``lvad.taxonomy``): 4 and 21 for BDD-OIA. In ``lvad.policy`` also: N packed tokens,
S prompt tokens of all scenes, R = B K rows while sampling, E hidden size, H query heads, G key heads, D head size. A
docstring that gives a letter another meaning says so.

Batches are NamedTuples because Lightning moves those to a device and ``pin_memory`` walks them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from lvad.taxonomy import BDD_OIA, Taxonomy

UNLABELLED = -1


class VideoFrame(NamedTuple):
    """A picture of a video."""

    video: Path
    time_s: float
    """From the beginning; the picture is the one that a player shows then."""
    video_stream: int | None = None
    """Which of several streams of the file, as for ``lvad.data.videos.sample_video``."""

    def __str__(self) -> str:
        """Name the frame in messages."""
        return f"{self.video} at {self.time_s:g} s"


class Scene(NamedTuple):
    """The frames of one moment, with or without labels, as they lie on disk."""

    id: str
    frames: tuple[Path | VideoFrame, ...]
    """M image files, or moments of a video, oldest first."""
    split: str
    """``train``, ``val``, ``test``, or ``""`` where the source names none."""
    actions: tuple[int, ...] | None = None
    """A zeros and ones in the order of the label set; None without labels."""
    reasons: tuple[int, ...] | None = None
    """R zeros and ones in the order of the label set; None without labels."""
    captions: tuple[str, ...] = ()
    """Plain descriptions that fit the scene, each by itself."""
    facts: Mapping[str, str] | None = None
    """What is true of the scene, attribute to value (drawn scenes only): never shown to a reward."""
    is_pseudo: bool = False
    """True if a model gave the labels and not a person."""
    recording: str = ""
    """The drive that it was cut from, if the source names it; else empty, and its id may tell."""


class Batch(NamedTuple):
    """B scenes with their frames decoded."""

    ids: list[str]
    frames: list[Tensor]
    """B times uint8[M, 3, H, W]; M, H and W may differ between scenes."""
    actions: Tensor
    """int64[B, A], ``UNLABELLED`` in every entry of a scene without labels."""
    reasons: Tensor
    """int64[B, R], likewise."""
    captions: list[tuple[str, ...]]
    facts: list[dict[str, str] | None]
    recordings: list[str]
    """The drive of each, as returned by ``lvad.data.recordings.recording_of``."""
    taxonomy: Taxonomy = BDD_OIA
    """The label set, which names the actions and reasons."""


class Prefix(NamedTuple):
    """B encoded prompts with their images, computed once for all completions.

    It is valid until the policy's weights change.
    """

    embeds: Tensor
    """float[S, E], input embeddings of all prompts one after the other, visual tokens in place."""
    lengths: tuple[int, ...]
    """Tokens of each of the B prompts, S in all."""
    lookup: Callable[[Tensor], Tensor]
    """Embeds further tokens, float[N, E] of int64[N], with the same gradient path as the prompts' embeddings."""
    prompt_cache: Any = None
    """The prompts' keys and values, or whatever else the policy keeps of them for its own use."""


class Rollouts(NamedTuple):
    """K completions per scene, with the distribution they were drawn from."""

    tokens: Tensor
    """int64[B, K, T], the pad token after the end."""
    completion_mask: Tensor
    """bool[B, K, T], True on sampled tokens, the end token included."""
    logps: Tensor
    """float[B, K, T], log-probability of each token in the sampled distribution; 0 where masked out."""
    entropies: Tensor
    """float[B, K, T], entropy of that distribution in nats; 0 where masked out."""
    is_truncated: Tensor
    """bool[B, K], True where ``max_new_tokens`` ended the completion."""
    texts: list[list[str]]
    """B times K decoded completions without special tokens."""


class Scores(NamedTuple):
    """The reward of every completion, and the terms it is made of."""

    total: Tensor
    """float[B, K]."""
    terms: dict[str, Tensor]
    """One float[B, K] per named term, before weighting."""


@runtime_checkable
class Policy(Protocol):
    """A model that completes a scene's prompt; an ``nn.Module`` with these methods."""

    @property
    def state_size(self) -> int:
        """The hidden size E of ``states``."""
        ...

    def encode(self, batch: Batch, questions: list[str] | None = None) -> Prefix:
        """Encode frames and question once.

        Args:
            batch: B scenes.
            questions: one for each scene; None asks all of them ``Prompts.describe``.
        """
        ...

    def generate(self, prefix: Prefix, num_completions: int, greedy: bool = False) -> Rollouts:
        """Draw K completions per scene (greedy: the most probable token at each step)."""
        ...

    def logprobs(self, prefix: Prefix, rollouts: Rollouts) -> Tensor:
        """Compute log-probabilities float[B, K, T], differentiable, in the distribution that ``generate`` samples."""
        ...

    def reference_logprobs(self, batch: Batch, prefix: Prefix, rollouts: Rollouts) -> Tensor:
        """Compute log-probabilities float[B, K, T] under the reference, with temperature and bans, not truncated."""
        ...

    def targets(self, texts: list[list[str]]) -> Rollouts:
        """Encode B times K given texts as completions."""
        ...

    def states(self, prefix: Prefix) -> Tensor:
        """Return a hidden state of each prompt, float[B, E], before any completion; without gradient."""
        ...

    def keep_reference(self) -> None:
        """Keep the present weights as the reference, before the first update."""
        ...

    def refresh_reference(self) -> None:
        """Make the present weights the reference, at any time."""
        ...

    def reference_state(self) -> dict[str, Tensor] | None:
        """Return what a checkpoint must hold of a refreshed reference; None while it is the start."""
        ...

    def load_reference_state(self, state: dict[str, Tensor]) -> None:
        """Restore a refreshed reference from ``reference_state``."""
        ...

    def save_pretrained(self, folder: Path) -> None:
        """Write a folder that the ecosystem opens without lvad."""
        ...


@runtime_checkable
class Reward(Protocol):
    """A model that scores completions; a frozen ``nn.Module`` with this method."""

    def score(self, batch: Batch, rollouts: Rollouts) -> Scores:
        """Score K completions of each of B scenes."""
        ...


class SceneSamples(NamedTuple):
    """The K completions of one validation scene, as the run's record shows them."""

    id: str
    frames: Tensor
    """uint8[M, 3, H, W]."""
    texts: list[str]
    """K completions."""
    rewards: list[float]
    """K rewards; empty where the stage has none."""
    advantages: list[float]
    """K advantages; empty where the stage has none."""
    terms: dict[str, list[float]]
    """K values per named term of the reward."""


class Prediction(NamedTuple):
    """The description that ``predict`` writes of one scene, with its reward."""

    id: str
    description: str
    reward: float | None
    """None where no reward model judged the description."""


class SceneScores(NamedTuple):
    """The test scores of one scene, so that runs can be compared scene by scene."""

    id: str
    scores: dict[str, tuple[float, float]]
    """Numerator and denominator by name; the score of a set of scenes is the sum of the numerators over the sum of the
    denominators."""


class MatchProbabilities(NamedTuple):
    """P(match) of N image-text pairs, beside whether they match: for a confusion matrix and a ROC curve."""

    probabilities: Tensor
    """float[N], P(match)."""
    is_match: Tensor
    """bool[N]."""


class Table(NamedTuple):
    """A table of a run's report."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class AnsweredScene(NamedTuple):
    """The answer of the second stage for one scene, beside the labels."""

    id: str
    description: str
    """The description of the first stage; empty without one."""
    text: str
    """The answer as it was generated."""
    actions: tuple[int, ...]
    """A zeros and ones, read from the answer."""
    reasons: tuple[int, ...]
    """R zeros and ones, read from the answer."""
    is_valid: bool
    """False where the answer could not be parsed without a flaw."""
    action_probabilities: tuple[float, ...]
    """A probabilities in [0, 1]; empty where they were not computed."""
    reason_probabilities: tuple[float, ...]
    """R probabilities in [0, 1]; empty where they were not computed."""
    true_actions: tuple[int, ...] | None
    """A zeros and ones; None without labels."""
    true_reasons: tuple[int, ...] | None
    """R zeros and ones; None without labels."""
    recording: str = ""
    """The drive that the scene was cut from; empty if only its id may tell."""
