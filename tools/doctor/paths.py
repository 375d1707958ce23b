"""The files that a configuration names: readable for the service, and keys for nobody else."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tools.doctor.context import Context, Role
from tools.doctor.finding import Finding, fail, ok, warn
from tools.doctor.owner import has_unit, reader, service_user

_INSTALL: Final = "install this machine's bundle (bash install.sh agent --bundle NAME.tar)"
# What ProtectHome= hides from a unit.
_HIDDEN: Final = (Path("/home"), Path("/root"), Path("/run/user"))


def examine_paths(context: Context) -> Iterator[Finding]:
    """Yield `paths` and `secrets`."""
    user = service_user(context)
    yield judge_paths(named(context), why_not=reader(user), hidden=has_unit(context))
    if user is not None:
        closed = judge_handed_over(
            secrets(context), name=context.service.client_id, why_not=reader(user)
        )
        if closed is not None:
            yield closed
            return
    owners = {"root", user or pwd.getpwuid(os.geteuid()).pw_name}
    yield judge_secrets(_modes(secrets(context)), owners=owners)


def named(context: Context) -> dict[str, Path]:
    """Return what the service itself reads, by its key in the configuration; no secrets."""
    paths: dict[str, Path] = {}
    if context.role is Role.AGENT:
        config = context.agent
        paths["data.train"] = config.data.train
        if config.data.heldout is not None:
            paths["data.heldout"] = config.data.heldout
        # A hub's id has no path here.
        if config.model and (config.model.startswith((".", "/", "~"))):
            paths["model"] = Path(config.model).expanduser()
    elif not (context.aggregator.state_dir / "adapters/0").exists():
        paths["initial_adapter"] = context.aggregator.initial_adapter
    tls = context.broker.tls
    if tls is not None:
        paths["broker.tls.ca_file"] = tls.ca_file
        if tls.cert_file is not None:
            paths["broker.tls.cert_file"] = tls.cert_file
    return paths


def secrets(context: Context) -> dict[str, Path]:
    """Return the files that nobody else may read, by their keys in the configuration."""
    paths: dict[str, Path] = {}
    tls = context.broker.tls
    if tls is not None and tls.key_file is not None:
        paths["broker.tls.key_file"] = tls.key_file
    if context.broker.password_file is not None:
        paths["broker.password_file"] = context.broker.password_file
    return paths


def judge_paths(paths: dict[str, Path], *, why_not: Callable[[Path], str], hidden: bool) -> Finding:
    """Tell whether the service can read what its configuration names.

    Args:
        paths: By their keys.
        why_not: Says what keeps the service from reading a path, "" for nothing.
        hidden: The service runs in a unit that does not see people's homes.
    """
    absent = [f"{key} {path}" for key, path in paths.items() if not path.exists()]
    if absent:
        mend = "put them there, or name other places in the configuration"
        return fail("paths", f"not there: {', '.join(absent)}", mend)
    for key, path in paths.items():
        if why := why_not(path):
            return fail("paths", f"{key}: {why}", f"chmod -R a+rX {path}, and a+x for its folders")
        if hidden and any(path.resolve().is_relative_to(home) for home in _HIDDEN):
            return fail(
                "paths",
                f"{key} {path} is in a home folder, which the unit does not see",
                f"mkdir -p /srv/fedfstq && cp -a {path} /srv/fedfstq/, and name that in {key}",
            )
    return ok("paths", f"{len(paths)} files and folders, all readable for the service")


def _modes(paths: dict[str, Path]) -> dict[str, tuple[Path, str, int] | str]:
    """Return each secret's path, owner and mode, or why they cannot be seen."""
    found: dict[str, tuple[Path, str, int] | str] = {}
    for key, path in paths.items():
        try:
            status = path.stat()
        except FileNotFoundError:
            found[key] = f"{path} is not there"
            continue
        except OSError as error:
            found[key] = f"{path}: {error.strerror}"
            continue
        try:
            owner = pwd.getpwuid(status.st_uid).pw_name
        except KeyError:
            owner = str(status.st_uid)
        found[key] = (path, owner, stat.S_IMODE(status.st_mode))
    return found


def judge_handed_over(
    paths: dict[str, Path], *, name: str, why_not: Callable[[Path], str]
) -> Finding | None:
    """Tell which secret the service can neither read itself nor is given; None for none.

    Args:
        paths: By their keys.
        name: The service's: its unit gives it `NAME.key`, whoever owns that.
        why_not: Says what keeps the service from reading a path, "" for nothing.
    """
    for key, path in paths.items():
        if path.name != f"{name}.key" and path.exists() and (why := why_not(path)):
            return fail(
                "secrets",
                f"{key}: {why}, and the unit hands over {name}.key alone",
                f"chown fedfstq:fedfstq {path}, or name it {name}.key in /etc/fedfstq/certs",
            )
    return None


def judge_secrets(found: dict[str, tuple[Path, str, int] | str], *, owners: set[str]) -> Finding:
    """Tell whether keys and passwords are their owner's alone."""
    open_to_a_group = ""
    for key, one in found.items():
        if isinstance(one, str):
            return fail("secrets", f"{key} {one}", f"{_INSTALL}, or run the doctor as root")
        path, owner, mode = one
        text = f"{key} {path}, {owner}, mode {mode:04o}"
        if mode & 0o007:
            return fail("secrets", f"{text}: every user may use it", f"chmod 600 {path}")
        if owner not in owners:
            mend = f"chown root:root {path}"
            return fail("secrets", f"{text}: it belongs to another user", mend)
        if mode & 0o070:
            open_to_a_group = f"{text}: its group may use it"
            mend_group = f"chmod 600 {path} (units of this version read it through LoadCredential)"
    if open_to_a_group:
        return warn("secrets", open_to_a_group, mend_group)
    if not found:
        return ok("secrets", "the configuration names none")
    return ok("secrets", f"{len(found)}, for their owner alone")
