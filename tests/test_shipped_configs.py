from pathlib import Path

import pytest

from pilot_secure.config_file import read_config_file, shipped_configs
from pilot_secure.errors import ConfigError


def test_a_shipped_configuration_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config_file(Path("general-vqa"))["data"]["scenario"] == "general-vqa"


def test_a_file_in_the_working_folder_goes_before_a_shipped_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "general-vqa").write_text("run: {seed: 7}\n")
    assert read_config_file(Path("general-vqa")) == {"run": {"seed": 7}}


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(ConfigError, match="visual-understanding"):
        read_config_file(Path("no-such-config"))
    assert set(shipped_configs()) >= {"general-vqa", "visual-understanding"}
