"""What a short command line is completed to."""

from lvad.commands.stages import _complete


def test_the_path_wins_over_the_configurations_and_an_option_over_the_path():
    """jsonargparse reads from left to right: a file behind ``--data.root`` would bring its own data back."""
    given = ["street.jpg", "--config", "a.yaml", "--ckpt_path", "b", "--config=c.yaml", "--data.format", "lastframe"]
    assert _complete("predict", given) == [
        "--config", "a.yaml", "--config=c.yaml", "--data.format", "frames", "--data.root", "street.jpg",
        "--ckpt_path", "b", "--data.format", "lastframe",
    ]  # fmt: skip
    assert _complete("predict", ["--config", "a.yaml"]) == ["--config", "a.yaml"]
