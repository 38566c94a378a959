"""Files of services with odd content: each gives a value or a ConfigError."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.access.service_files import ConfigError, ServiceFiles

URL = "mysql+pymysql://nova:S3cret@db/nova"


def connection(folder: Path, text: str | bytes) -> str | None:
    path = folder / "nova.conf"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ServiceFiles("[nova] config_file", [str(path)]).get("database", "connection")


@pytest.mark.parametrize("name", ["version", "project", "prog", "usage", "default_config_files", "get"])
def test_an_option_with_a_reserved_name_hides_no_other(tmp_path: Path, name: str) -> None:
    assert connection(tmp_path, f"[DEFAULT]\n{name} = 1\n[database]\nconnection = {URL}\n") == URL


@pytest.mark.parametrize(
    "text",
    [
        "[database]\nconnection = $connection\n",
        "[DEFAULT]\na = $b\nb = $a\n[database]\nconnection = $a\n",
        "[database]\nconnection = ${api.missing.url}\n",
        f"# r\N{LATIN SMALL LETTER E WITH ACUTE}gion\n[database]\nconnection = {URL}\n".encode("latin-1"),
        f"[database]\nconnection = {URL}\N{LATIN SMALL LETTER E WITH ACUTE}\n".encode("latin-1"),
    ],
    ids=["itself", "a loop", "a group that is not there", "a comment in Latin-1", "a value in Latin-1"],
)
def test_a_file_that_cannot_be_understood_is_a_wrong_configuration(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(ConfigError) as wrong:
        connection(tmp_path, text)
    assert "S3cret" not in str(wrong.value)
