"""Every setting, its unit, its default with the reason, and where its value came from."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from processor.core.errors import BadName, SettingsError
from processor.core.names import check_namespace

__all__ = ["DATA_DIR", "Settings", "is_running", "shown_url", "unknown_variables", "variable_of"]

PREFIX = "TAILRACE_"
DATA_DIR = ".tailrace"
_DATA_DIR = Path(DATA_DIR)  # of `tailrace up` and `demo`, in the folder where they were started
MIN_KEY_BYTES = 32  # HS256 is as strong as its key; RFC 7518 3.2 asks for the size of the hash
_SCHEMES = ("redis", "rediss", "unix")
_LOCK_SERVERS = 5  # RedLock wants one to five; more only adds round trips

Read = Callable[[str], object]  # text of a variable -> value; ValueError says what to give


def _whole(low: int, high: int) -> Read:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", text) or not low <= int(text) <= high:
            raise ValueError(f"give a whole number from {low} to {high}")
        return int(text)

    return read


def _number(low: float, high: float, unit: str) -> Read:
    wanted = f"give a number of {unit} from {low:g} to {high:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(wanted) from None
        if math.isnan(value) or not low <= value <= high:
            raise ValueError(wanted)
        return value

    return read


def _choice(*words: str) -> Read:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"give {', '.join(words[:-1])} or {words[-1]}")
        return text

    return read


def _flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("give 1 or 0")


def _redis_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in _SCHEMES:
        raise ValueError("give redis://user:password@host:port/0, rediss://… (TLS) or unix:///path/of/the.sock")
    if parts.scheme == "unix" and not parts.path:
        raise ValueError("give the socket's path: unix:///path/of/the.sock")
    if parts.scheme != "unix":
        try:
            port = parts.port
        except ValueError:
            raise ValueError("give a port from 1 to 65535: redis://host:6379/0") from None
        if not parts.hostname or port == 0:
            raise ValueError("give a host: redis://host:6379/0")
        if parts.path not in ("", "/") and not re.fullmatch(r"/[0-9]+", parts.path):
            raise ValueError("give the database as a number: redis://host:6379/0")
    return text


def _redis_urls(text: str) -> tuple[str, ...]:
    urls = tuple(_redis_url(part.strip()) for part in text.split(",") if part.strip())
    if len(urls) > _LOCK_SERVERS:
        raise ValueError(f"give one to {_LOCK_SERVERS} addresses of independent servers")
    return urls


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("give an address such as https://app.example.com")
    return text.rstrip("/")


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
            raise ValueError(f"{origin!r} is no origin; give scheme, host and port: http://localhost:5173")
    return origins


def _namespace(text: str) -> str:
    try:
        return check_namespace(text)
    except BadName:
        raise ValueError("give 1 to 41 of a-z 0-9 -, not beginning with -") from None


def _key(text: str) -> str:
    if len(text.encode()) < MIN_KEY_BYTES:
        raise ValueError(f"give {MIN_KEY_BYTES} bytes or more, for example what `openssl rand -hex 32` prints")
    return text


def _text(text: str) -> str:
    return text


def _setting(default: Any, read: Read, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"read": read, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process may be told. `from_env` reads it; a field is TAILRACE_ and its name in capitals.

    Numbers are in the unit that the name ends with. Values given here are checked as those of the environment are;
    raises SettingsError.
    """

    # no guess: a wrong server is worse than a message
    redis_url: str | None = _setting(None, _redis_url)
    # one team on one server needs no other
    namespace: str = _setting("default", _namespace)
    # empty: the lock is kept on redis_url itself
    lock_urls: tuple[str, ...] = _setting((), _redis_urls)
    # nobody else may read until somebody says so
    host: str = _setting("127.0.0.1", _text)
    # in the range that anybody may use, and easy to remember; 0: a free one
    port: int = _setting(8600, _whole(0, 65535))
    # behind a proxy the process cannot know its own address
    public_url: str | None = _setting(None, _http_url)
    # other origins read nothing until listed
    cors_origins: tuple[str, ...] = _setting((), _origins)
    # signs links; without it there are none
    jwt_key: str | None = _setting(None, _key, secret=True)
    # keys of an identity provider, instead of jwt_key
    jwks_url: str | None = _setting(None, _http_url)
    # what `up` keeps; beside the project, as .venv is
    data_dir: Path = _setting(_DATA_DIR, Path)  # noqa: RUF009 - a Path does not change
    # after its end: a day to read a run and debug it
    retain_hours: float = _setting(24.0, _number(0.0001, 87600, "hours"))
    # behind it: the latest resend that is still told apart
    tombstone_hours: float = _setting(24.0, _number(0.0001, 8760, "hours"))
    # tool results fit; files belong in storage. 1 MiB is a call's limit
    max_event_kib: int = _setting(64, _whole(1, 1000))
    # below the 30 s after which Kubernetes kills
    drain_seconds: float = _setting(10.0, _number(0, 3600, "seconds"))
    # below the 30 to 60 s of proxies' idle timeouts
    heartbeat_seconds: float = _setting(15.0, _number(0.05, 3600, "seconds"))
    # survives pauses of GC and network, heals within a minute
    visibility_seconds: float = _setting(30.0, _number(0.1, 3600, "seconds"))
    # as visibility: a dead process is told within 35 s
    owner_seconds: float = _setting(30.0, _number(0.1, 3600, "seconds"))
    # what a cancel leaves a producer that nobody can interrupt
    grace_seconds: float = _setting(30.0, _number(0, 3600, "seconds"))
    # entries a partition: 31 MB at 153 B each
    log_limit: int = _setting(200_000, _whole(100, 100_000_000))
    # entries a task and partition: hours of backlog, bounded memory
    work_limit: int = _setting(100_000, _whole(1, 100_000_000))
    # events a run: the longest answers have some ten thousand
    feed_limit: int = _setting(100_000, _whole(100, 100_000_000))
    # dead letters a task or group: nobody reads more
    dead_limit: int = _setting(10_000, _whole(1, 10_000_000))
    # unsent events of a process: a minute of a busy agent while the server is away
    buffer_mib: int = _setting(8, _whole(1, 1024))
    # a slow tab's buffer; then it reads on from the feed
    subscriber_kib: int = _setting(256, _whole(4, 65536))
    # until an ownerless silent run is ended; 0: never
    silent_days: float = _setting(7.0, _number(0, 3650, "days"))
    # of a new namespace: enough for a small cluster, cheap on one server
    partitions: int = _setting(8, _whole(1, 512))
    # on when partitions sit on several servers
    relay_durability: Literal["auto", "on", "off"] = _setting("auto", _choice("auto", "on", "off"))
    # a server that evicts deletes runs nobody has read
    allow_eviction: bool = _setting(False, _flag)
    # console at a terminal, else json
    log: Literal["auto", "console", "json"] = _setting("auto", _choice("auto", "console", "json"))
    # field -> where its value came from
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        faults = [f for name in _FIELDS if (f := _fault(name, getattr(self, name), self.origins.get(name)))]
        if self.jwt_key and self.jwks_url:
            faults.append("TAILRACE_JWT_KEY and TAILRACE_JWKS_URL are both set: give one of them")
        _raise(faults)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, folder: Path | None) -> Settings:
        """What the environment says; what it leaves open, `.tailrace/` of the folder or one above says (None: nobody).

        Raises one SettingsError that names every fault.
        """
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        faults: list[str] = []
        for name in _FIELDS:
            for variable in (variable_of(name), *(["REDIS_URL"] if name == "redis_url" else [])):
                text = environ.get(variable)
                if text is None or (text == "" and name != "allow_eviction"):
                    continue  # empty is how compose files say "not set"
                try:
                    values[name] = _FIELDS[name].metadata["read"](text)
                    origins[name] = variable
                except ValueError as error:
                    faults.append(_sentence(name, variable, text, str(error)))
                break
        if "jwt_key" in values and "jwks_url" in values:
            faults.append("TAILRACE_JWT_KEY and TAILRACE_JWKS_URL are both set: give one of them")
        _raise(faults)
        if folder is not None:
            _from_folder(folder.absolute(), values, origins)
        return cls(**values, origins=origins)

    def changed(self, origin: str, **values: Any) -> Settings:
        """With these values, which came from origin (a flag's name, "argument"). Raises SettingsError."""
        return dataclasses.replace(self, **values, origins={**self.origins, **dict.fromkeys(values, origin)})

    def origin(self, name: str) -> str:
        """Where a field's value came from: a variable, a file, a flag, or "default"."""
        return self.origins.get(name, "default")

    def shown(self) -> dict[str, object]:
        """Field -> value for eyes: secrets and passwords masked, paths as text."""
        return {name: _shown(name, getattr(self, name)) for name in _FIELDS}


_FIELDS = {f.name: f for f in dataclasses.fields(Settings) if f.name != "origins"}


def variable_of(name: str) -> str:
    return PREFIX + name.upper()


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables that begin as ours do and name no setting: a slip of the pen that would otherwise go unnoticed."""
    known = {variable_of(name) for name in _FIELDS}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def shown_url(url: str) -> str:
    """The address without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


def _shown(name: str, value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if _FIELDS[name].metadata["secret"]:
        return "***"
    if isinstance(value, tuple):
        return [shown_url(v) for v in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return shown_url(str(value)) if name.endswith("_url") else str(value)


def _sentence(name: str, variable: str, text: str, remedy: str) -> str:
    if _FIELDS[name].metadata["secret"]:
        return f"{variable} has {len(text.encode())} bytes: {remedy}"
    return f"{variable} is {shown_url(text) if '://' in text else text!r}: {remedy}"


def _fault(name: str, value: object, origin: str | None) -> str | None:
    """What is wrong with a value that code gave: judged by the same readers as text is."""
    default = _FIELDS[name].default
    if value is None or value == default:
        return None
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if isinstance(default, int) and not isinstance(default, bool) and isinstance(value, float) and value.is_integer():
        text = str(int(value))
    try:
        _FIELDS[name].metadata["read"](text)
    except ValueError as error:
        return _sentence(name, origin or variable_of(name), text, str(error))
    return None


def _raise(faults: list[str]) -> None:
    if len(faults) == 1:
        raise SettingsError(faults[0])
    if faults:
        raise SettingsError(f"{len(faults)} settings are wrong:\n  " + "\n  ".join(faults))


def _from_folder(folder: Path, values: dict[str, Any], origins: dict[str, str]) -> None:
    """Address and key that `tailrace up` keeps in `.tailrace/` of this folder or the nearest above it."""
    places = [f / DATA_DIR for f in (folder, *folder.parents)]
    if "data_dir" in values:
        places.insert(0, folder / values["data_dir"])
    if "redis_url" not in values:
        for place in places:
            found = _running_server(place / "server.json")
            if found:
                origin = str(place / "server.json")
                for name, value in (*found.items(), ("data_dir", place)):
                    if name not in values:
                        values[name], origins[name] = value, origin
                break
    if "jwt_key" not in values and "jwks_url" not in values:
        for place in places:
            key = _trusted_text(place / "key")
            if key and len(key.encode()) >= MIN_KEY_BYTES:
                values["jwt_key"], origins["jwt_key"] = key, str(place / "key")
                break
    values.setdefault("data_dir", folder / DATA_DIR)


def _trusted_text(path: Path) -> str | None:
    """The file's text if it is ours. In a shared folder as /tmp somebody else's would lead our events to his server."""
    try:
        if path.stat().st_uid not in (os.getuid(), 0):
            return None
        return path.read_text().strip()
    except OSError:
        return None  # absent, or not for us: the next folder is asked


def _running_server(path: Path) -> dict[str, str]:
    """Address of a server that runs, and of the gateway that shows it."""
    text = _trusted_text(path)
    if not text:
        return {}
    try:
        said = json.loads(text)
        url, pid, gateway = said["url"], int(said["pid"]), said.get("gateway")
    except (ValueError, KeyError, TypeError):
        return {}  # half written or not ours: as good as absent
    if not isinstance(url, str) or not is_running(pid):
        return {}
    return {"redis_url": url, **({"public_url": gateway} if isinstance(gateway, str) else {})}


def is_running(pid: int) -> bool:
    """Whether a process lives: False for one that was killed and could not take its file away."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
