"""An exported run, made once."""

import pytest

from lvad.cli import main


@pytest.fixture(scope="package")
def exported(lora_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "driver"
    assert main(["export", str(lora_run), str(folder)]) == 0
    return folder
