from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from processor.core.errors import SettingsError
from processor.core.settings import Settings, shown_url, unknown_variables

KEY = "k" * 32


def _up(folder: Path, url: str, pid: int) -> Path:
    place = folder / ".tailrace"
    place.mkdir()
    (place / "server.json").write_text(json.dumps({"url": url, "pid": pid, "started": "2026-01-01T00:00:00Z"}))
    (place / "key").write_text(KEY)
    return place


def test_defaults_need_no_environment(tmp_path: Path) -> None:
    """Nothing set means the documented defaults and no server."""
    settings = Settings.from_env({}, folder=tmp_path)
    assert (settings.redis_url, settings.namespace, settings.port) == (None, "default", 8600)
    assert settings.data_dir == tmp_path / ".tailrace"
    assert settings.origin("port") == "default"


def test_values_and_their_origins() -> None:
    """A field is TAILRACE_ and its name in capitals, and says where it came from."""
    settings = Settings.from_env(
        {"TAILRACE_PORT": "80", "TAILRACE_CORS_ORIGINS": "http://a:1, https://b/", "TAILRACE_ALLOW_EVICTION": "1"},
        folder=None,
    )
    assert (settings.port, settings.cors_origins, settings.allow_eviction) == (80, ("http://a:1", "https://b"), True)
    assert settings.origins["port"] == "TAILRACE_PORT"


def test_own_variable_wins_over_redis_url() -> None:
    """TAILRACE_REDIS_URL is asked before REDIS_URL."""
    environ = {"REDIS_URL": "redis://b", "TAILRACE_REDIS_URL": "redis://a"}
    settings = Settings.from_env(environ, folder=None)
    assert (settings.redis_url, settings.origin("redis_url")) == ("redis://a", "TAILRACE_REDIS_URL")
    del environ["TAILRACE_REDIS_URL"]
    assert Settings.from_env(environ, folder=None).origin("redis_url") == "REDIS_URL"


def test_every_fault_at_once() -> None:
    """One error names each wrong variable, its value and what it should be; secrets and passwords are not shown."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(
            {
                "TAILRACE_PORT": "eighty",
                "TAILRACE_NAMESPACE": "A b",
                "TAILRACE_JWT_KEY": "hunter2",
                "REDIS_URL": "http://u:secret@h",
            },
            folder=None,
        )
    text = str(caught.value)
    assert text.startswith("4 settings are wrong:")
    assert "TAILRACE_PORT is 'eighty': give a whole number from 0 to 65535" in text
    assert "TAILRACE_NAMESPACE is 'A b'" in text
    assert "TAILRACE_JWT_KEY has 7 bytes" in text
    assert "hunter2" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TAILRACE_HEARTBEAT_SECONDS", "nan"),
        ("TAILRACE_RETAIN_HOURS", "-1"),
        ("TAILRACE_REDIS_URL", "redis://host:99999"),
        ("TAILRACE_REDIS_URL", "unix://"),
        ("TAILRACE_REDIS_URL", "redis://host/name"),
        ("TAILRACE_LOCK_URLS", ",".join(["redis://h"] * 6)),
        ("TAILRACE_CORS_ORIGINS", "http://a/path"),
        ("TAILRACE_PUBLIC_URL", "example.com"),
        ("TAILRACE_RELAY_DURABILITY", "maybe"),
        ("TAILRACE_ALLOW_EVICTION", "perhaps"),
        ("TAILRACE_LOG", "xml"),
        ("TAILRACE_PARTITIONS", "0"),
        ("TAILRACE_MAX_EVENT_KIB", "1.5"),
    ],
)
def test_faults(variable: str, text: str) -> None:
    """Each wrong value is told with its variable and one remedy."""
    with pytest.raises(SettingsError, match=rf"^{variable} is .*: .*give "):
        Settings.from_env({variable: text}, folder=None)


def test_key_and_jwks_exclude_each_other() -> None:
    """Two sources of trust at once are refused."""
    with pytest.raises(SettingsError, match="both set"):
        Settings.from_env({"TAILRACE_JWT_KEY": KEY, "TAILRACE_JWKS_URL": "https://id/keys"}, folder=None)


def test_values_given_by_code_are_checked_alike() -> None:
    """Settings(port=65536) and a flag's wrong value are refused in the same words, naming the flag."""
    with pytest.raises(SettingsError, match="TAILRACE_PORT is '65536'"):
        Settings(port=65536)
    with pytest.raises(SettingsError, match="--port is '65536'"):
        Settings().changed("--port", port=65536)
    assert Settings(heartbeat_seconds=1).changed("--host", host="::1").origin("host") == "--host"


def test_running_up_is_found_from_below(tmp_path: Path) -> None:
    """Address, key and data folder of a running `tailrace up` serve every folder below it."""
    place = _up(tmp_path, "unix:///x.sock", os.getpid())
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    settings = Settings.from_env({}, folder=below)
    assert (settings.redis_url, settings.jwt_key, settings.data_dir) == ("unix:///x.sock", KEY, place)
    assert settings.origin("redis_url") == str(place / "server.json")


def test_the_gateway_of_an_up_is_where_links_lead(tmp_path: Path) -> None:
    """Its address comes with the server's, unless a variable names another."""
    place = _up(tmp_path, "unix:///x.sock", os.getpid())
    said = {"url": "unix:///x.sock", "pid": os.getpid(), "gateway": "http://127.0.0.1:8601"}
    (place / "server.json").write_text(json.dumps(said))
    assert Settings.from_env({}, folder=tmp_path).public_url == "http://127.0.0.1:8601"
    named = Settings.from_env({"TAILRACE_PUBLIC_URL": "https://a"}, folder=tmp_path)
    assert named.public_url == "https://a"


def test_a_killed_up_is_not_found(tmp_path: Path) -> None:
    """A server.json whose process is gone names no server; the key stays valid."""
    _up(tmp_path, "unix:///x.sock", 2**22 + 1)
    settings = Settings.from_env({}, folder=tmp_path)
    assert (settings.redis_url, settings.jwt_key) == (None, KEY)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_somebody_elses_folder_is_not_trusted(tmp_path: Path) -> None:
    """A server.json that another user put above us leads nowhere."""
    place = _up(tmp_path, "unix:///x.sock", os.getpid())
    os.chown(place / "server.json", 12345, 12345)
    assert Settings.from_env({}, folder=tmp_path).redis_url is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1, "pid": 1}', '{"url": "redis://h"}'])
def test_a_broken_server_json_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    """What cannot be read as an address is passed over."""
    _up(tmp_path, "unix:///x.sock", os.getpid())
    (tmp_path / ".tailrace" / "server.json").write_text(text)
    assert Settings.from_env({}, folder=tmp_path).redis_url is None


def test_shown_masks_secrets() -> None:
    """What is printed carries neither key nor password."""
    settings = Settings(redis_url="redis://u:pw@h:1/0", jwt_key=KEY)
    shown = settings.shown()
    assert (shown["redis_url"], shown["jwt_key"], shown["retain_hours"]) == ("redis://u:***@h:1/0", "***", 24)
    assert KEY not in repr(settings)
    assert shown_url("unix:///a.sock") == "unix:///a.sock"


def test_slips_of_the_pen_are_listed() -> None:
    """TAILRACE_PROT is no setting."""
    assert unknown_variables({"TAILRACE_PROT": "1", "TAILRACE_PORT": "1", "PATH": ""}) == ["TAILRACE_PROT"]
