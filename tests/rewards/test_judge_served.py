"""The judge against ``transformers serve``, an OpenAI-compatible server of other make."""

import importlib.util
import os
import socket
import subprocess
import sys
import time

import httpx2
import pytest
import torch
from test_judge import GO, STOP, scenes
from test_rules import rollouts

from lvad.errors import JudgeError
from lvad.rewards import LLMJudge
from lvad.rewards.chat import Endpoint

WORDS = ("<unk>", "<pad>", "<end>", "0.5", "red", "light", "stop", "the")


def write_model(folder, says_half):
    """A Llama of one layer: with random weights, or one that says "0.5" after all words but itself, and then ends."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="<end>"
    )
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    half, end = WORDS.index("0.5"), WORDS.index("<end>")
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=1024, bos_token_id=None, eos_token_id=end, pad_token_id=WORDS.index("<pad>"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        if says_half:
            for parameter in model.parameters():
                parameter.zero_()
            model.model.norm.weight.fill_(1.0)
            # The layer adds nothing, so the last word alone decides: "0.5" points to the end, all others to "0.5".
            model.model.embed_tokens.weight[:, 0] = 1.0
            model.model.embed_tokens.weight[half] = torch.eye(16)[1]
            model.lm_head.weight[half, 0] = model.lm_head.weight[end, 1] = 1.0
        else:
            model.lm_head.weight[end] = model.lm_head.weight[half] = 0.0
            model.lm_head.weight.mul_(100)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def transformers_server(tmp_path_factory):
    """``transformers serve`` on a free port, with its base address, and the folder that its models are in."""
    absent = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"transformers serve needs {', '.join(absent)}")
    folder = tmp_path_factory.mktemp("served")
    write_model(folder / "half", says_half=True)
    write_model(folder / "random", says_half=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
            yield f"http://127.0.0.1:{port}/v1", folder
        finally:
            process.terminate()
            process.wait(30)


def wait_for(address, process, log):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx2.get(address, trust_env=False).is_success:
                return
        except httpx2.TransportError:
            time.sleep(0.1)
    raise TimeoutError(log.read_text())


@pytest.mark.slow
def test_a_real_server_with_a_model_that_judges(transformers_server):
    url, folder = transformers_server
    judge = LLMJudge(Endpoint(url, str(folder / "half"), concurrency=2, max_tokens=8))
    scores = judge.score(scenes("a"), rollouts([[STOP, GO, "Action: stop."]]))
    assert scores.total.tolist() == [[0.5, 0.5, 0.0]]


@pytest.mark.slow
def test_a_real_server_with_a_model_that_babbles(transformers_server):
    url, folder = transformers_server
    endpoint = Endpoint(url, str(folder / "random"), retries=1, max_tokens=8)
    with pytest.raises(JudgeError, match=r"scene 'a', completion 0 .*\(attempts: 2\)"):
        LLMJudge(endpoint).score(scenes("a"), rollouts([[STOP]]))
    with pytest.raises(JudgeError, match="gave no verdict on scene 'a'"):  # it never gave one: nothing to go on with
        LLMJudge(endpoint, on_failure="drop").score(scenes("a"), rollouts([[STOP]]))
