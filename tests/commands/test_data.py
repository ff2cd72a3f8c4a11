"""``lvad data``: flags are flags."""

import json

import pytest
from PIL import Image

from lvad.cli import main


@pytest.fixture
def pictures(tmp_path):
    for i in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"broken")
    return str(tmp_path)


def test_json_and_decode_take_no_value(pictures, capsys):
    assert main(["data", "check", pictures, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["images"] == "2 of 3 decoded"
    assert main(["data", "check", "--json", "--no_decode", pictures]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == "present, not decoded"
    assert main(["data", "check", pictures, "--decode"]) == 1
    assert "2 of 3 decoded" in capsys.readouterr().out


def test_the_flags_are_explained(capsys):
    with pytest.raises(SystemExit):
        main(["data", "check", "--help"])
    said = capsys.readouterr().out
    assert "--json, --no_json" in said
    assert "open every picture (slow on a large set)." in said


def test_a_folder_that_does_not_exist_is_said_to(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path / "no/such")]) == 1
    assert "no/such: does not exist" in capsys.readouterr().out
