"""What install.sh does to a machine's files, in a folder that it takes for the machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

AGENT_FILES = {
    "etc/fedfstq/agent-nano-01.yaml": 0o640,
    "etc/fedfstq/certs/ca.crt": 0o644,
    "etc/fedfstq/certs/nano-01.crt": 0o644,
    "etc/fedfstq/certs/nano-01.key": 0o600,
}


def test_an_agent_is_installed_and_a_second_run_finds_nothing_to_do(
    machine: Any, bundle: Callable[..., Path]
) -> None:
    done = machine.install("agent", "--bundle", bundle())
    assert done.returncode == 0, done.stdout
    tree = machine.tree()
    for path, mode in AGENT_FILES.items():
        assert tree[path][0] == mode
    units = {Path(path).name for path in tree if "systemd" in path}
    assert {"fedfstq-agent@.service", "fedfstq-trainer@.service"} <= units
    assert not any("aggregator" in unit for unit in units)
    assert machine.version() == "fedfstq 1.0"
    # No Jetson: torch came with the other wheels.
    assert list(machine.root.glob("opt/fedfstq/venvs/1/lib/*/site-packages/torch"))
    assert (machine.root / "opt/fedfstq/venv").readlink() == Path("venvs/1")
    again = machine.install("agent", "--bundle", bundle())
    assert again.returncode == 0, again.stdout
    assert again.stdout.splitlines()[-1] == "nothing to change"
    assert (machine.tree(), machine.environments()) == (tree, ["1"])


def test_a_dry_run_says_what_it_would_do_and_does_nothing(
    machine: Any, bundle: Callable[..., Path]
) -> None:
    done = machine.install("agent", "--bundle", bundle(), "--dry-run")
    assert done.returncode == 0, done.stdout
    for words in ("make environment 1", "certs/nano-01.key", "fedfstq-agent@.service"):
        assert words in done.stdout
    assert not machine.root.exists()


def test_a_configuration_that_a_person_has_edited_is_kept(
    machine: Any, bundle: Callable[..., Path]
) -> None:
    machine.install("agent", "--bundle", bundle())
    yaml = machine.root / "etc/fedfstq/agent-nano-01.yaml"
    yaml.write_text("client_id: nano-01\ndevice: cuda\n")
    done = machine.install("agent", "--bundle", bundle())
    assert f"{yaml}.new" in done.stdout
    assert "cuda" in yaml.read_text()
    assert Path(f"{yaml}.new").read_text() == "client_id: nano-01\n"
    assert Path(f"{yaml}.new").stat().st_mode & 0o777 == 0o640


def test_a_renewed_certificate_replaces_the_old_one(
    machine: Any, bundle: Callable[..., Path]
) -> None:
    machine.install("agent", "--bundle", bundle())
    renewed = bundle(**{"nano-01.crt": "newer\n", "nano-01.key": "newer key\n"})
    done = machine.install("agent", "--bundle", renewed)
    assert done.returncode == 0, done.stdout
    tree = machine.tree()
    assert tree["etc/fedfstq/certs/nano-01.crt"] == (0o644, "newer\n")
    assert tree["etc/fedfstq/certs/nano-01.key"] == (0o600, "newer key\n")
    assert machine.environments() == ["1"]


def test_an_upgrade_keeps_two_environments_and_rollback_goes_back(
    machine: Any, wheels: Any, bundle: Callable[..., Path]
) -> None:
    machine.install("agent", "--bundle", bundle())
    for version in ("1.1", "1.2"):
        wheels.release(version)
        done = machine.install("upgrade")
        assert done.returncode == 0, done.stdout
        assert machine.version() == f"fedfstq {version}"
    assert machine.environments() == ["2", "3"]
    assert "has fedfstq 1.2 already" in machine.install("upgrade").stdout
    back = machine.install("rollback")
    assert back.returncode == 0, back.stdout
    assert machine.version() == "fedfstq 1.1"
    assert "no environment before 2" in machine.install("rollback").stdout


def test_a_version_that_does_not_start_changes_nothing(
    machine: Any, wheels: Any, bundle: Callable[..., Path]
) -> None:
    machine.install("agent", "--bundle", bundle())
    tree = machine.tree()
    wheels.release("1.1", starts=False)
    done = machine.install("upgrade")
    assert done.returncode == 1
    assert "does not start in the new environment" in done.stdout
    assert machine.version() == "fedfstq 1.0"
    assert (machine.tree(), machine.environments()) == (tree, ["1"])


def test_what_cannot_be_installed_changes_nothing(
    machine: Any, wheels: Any, bundle: Callable[..., Path]
) -> None:
    machine.install("agent", "--bundle", bundle())
    wheels.release("1.1")
    next(wheels.folder.glob("numpy-*")).unlink()
    done = machine.install("upgrade")
    assert done.returncode == 1
    assert "pip could not install" in done.stdout
    assert (machine.version(), machine.environments()) == ("fedfstq 1.0", ["1"])


def test_what_an_interrupted_run_has_left_does_not_count(
    machine: Any, bundle: Callable[..., Path]
) -> None:
    half = machine.root / "opt/fedfstq/venvs/1/bin"
    half.mkdir(parents=True)
    (half / "fedfstq").write_text("half")
    done = machine.install("agent", "--bundle", bundle())
    assert done.returncode == 0, done.stdout
    assert (machine.version(), machine.environments()) == ("fedfstq 1.0", ["1"])


def test_an_environment_that_was_made_by_hand_is_kept_aside(
    machine: Any, bundle: Callable[..., Path]
) -> None:
    old = machine.root / "opt/fedfstq/venv/bin"
    old.mkdir(parents=True)
    done = machine.install("agent", "--bundle", bundle())
    assert done.returncode == 0, done.stdout
    assert (machine.root / "opt/fedfstq/venv.by-hand/bin").is_dir()
    assert machine.version() == "fedfstq 1.0"


def test_uninstall_leaves_configuration_and_state_and_purge_does_not(
    machine: Any, bundle: Callable[..., Path]
) -> None:
    machine.install("agent", "--bundle", bundle())
    state = machine.root / "var/lib/fedfstq/nano-01/outbox"
    state.mkdir(parents=True)
    done = machine.install("uninstall")
    assert done.returncode == 0, done.stdout
    assert set(machine.tree()) == set(AGENT_FILES)
    assert state.is_dir()
    assert machine.environments() == []
    assert machine.install("uninstall").stdout.splitlines()[-1] == "nothing to change"
    machine.install("uninstall", "--purge")
    assert machine.tree() == {}
    assert not state.exists()


# --- torch ---------------------------------------------------------------------------------------

VENDORS = "2.5.0a0+872d972e41.nv24.08"


@pytest.fixture
def jetson(machine: Any) -> Any:
    """The machine is a Jetson whose Python has no torch."""
    release = machine.root / "etc/nv_tegra_release"
    release.parent.mkdir(parents=True)
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    model = machine.root / "proc/device-tree/model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0")
    return machine


def _torch_folder(folder: Path, version: str) -> Path:
    """A site-packages folder with a torch in it, as pip leaves one."""
    about = folder / f"torch-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    (about / "INSTALLER").write_text("pip\n")
    (folder / "torch.py").write_text(
        f"class version:\n    cuda = '12.6'\n__version__ = {version!r}\n"
        "def from_numpy(a): return a\n"
    )
    return folder


def test_a_jetson_without_torch_is_told_which_one_it_needs(
    jetson: Any, bundle: Callable[..., Path]
) -> None:
    done = jetson.install("agent", "--bundle", bundle())
    assert done.returncode == 1
    assert "NVIDIA Jetson Orin Nano" in done.stdout
    assert "has no torch" in done.stdout
    assert "pypi.jetson-ai-lab.io/jp6/cu126" in done.stdout
    assert jetson.environments() == []
    assert not any("fedfstq" in path for path in jetson.tree())


def test_a_vendors_torch_is_found_said_and_never_replaced(
    jetson: Any, wheels: Any, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    """Its version looks older than what the wheels offer, and is a pre-release besides."""
    vendor = _torch_folder(tmp_path / "vendor", VENDORS)
    done = jetson.install("agent", "--bundle", bundle(), "--torch", vendor)
    assert done.returncode == 0, done.stdout
    assert f"torch {VENDORS} (CUDA 12.6) is there and stays" in done.stdout
    assert not list(jetson.root.glob("opt/fedfstq/venvs/1/lib/*/site-packages/torch"))
    wheels.release("1.1")
    upgraded = jetson.install("upgrade")
    assert upgraded.returncode == 0, upgraded.stdout
    assert VENDORS in upgraded.stdout


def test_a_torch_that_does_not_fit_numpy_stops_before_the_switch(
    machine: Any, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    vendor = _torch_folder(tmp_path / "vendor", VENDORS)
    with (vendor / "torch.py").open("a") as source:
        source.write("def from_numpy(a): raise RuntimeError('Numpy is not available')\n")
    done = machine.install("agent", "--bundle", bundle(), "--torch", vendor)
    assert done.returncode == 1
    assert "torch does not work in the new environment: RuntimeError: Numpy is not" in done.stdout
    assert machine.environments() == []


# --- aggregator, and both on one machine ---------------------------------------------------------


def test_an_aggregator_needs_no_torch_and_an_agent_beside_it_adds_it(
    machine: Any, bundle: Callable[..., Path], tar: Any, tmp_path: Path
) -> None:
    files = dict.fromkeys(("aggregator.yaml", "coord.crt", "coord.key", "ca.crt"), "text\n")
    done = machine.install("aggregator", "--bundle", tar(tmp_path / "aggregator.tar", files))
    assert done.returncode == 0, done.stdout
    assert not list(machine.root.glob("opt/fedfstq/venvs/1/lib/*/site-packages/torch"))
    units = {Path(path).name for path in machine.tree() if "systemd" in path}
    assert units == {"fedfstq-aggregator.service"}
    machine.install("agent", "--bundle", bundle())
    assert list(machine.root.glob("opt/fedfstq/venvs/2/lib/*/site-packages/torch"))
    status = machine.install("status").stdout
    assert "environment 2 (in use): fedfstq 1.0, agent" in status


# --- bundles -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ({"../../etc/passwd": "x"}, "does not belong into a bundle"),
        ({"agent-other.yaml": "x"}, "holds 2 YAML files"),
        ({"other.key": "x"}, "must hold one key"),
        ({"setup.sh": "x"}, "which this version does not know"),
    ],
)
def test_a_bundle_with_something_else_in_it_is_refused(
    machine: Any, bundle: Callable[..., Path], names: dict[str, str], complaint: str
) -> None:
    done = machine.install("agent", "--bundle", bundle(**names))
    assert done.returncode == 1
    assert complaint in done.stdout
    assert machine.tree() == {}


def test_a_bundle_for_another_role_is_refused(machine: Any, bundle: Callable[..., Path]) -> None:
    done = machine.install("aggregator", "--bundle", bundle())
    assert done.returncode == 1
    assert "use: install.sh agent" in done.stdout


def test_what_is_no_tar_file_is_refused(machine: Any, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    done = machine.install("agent", "--bundle", tmp_path / "text")
    assert (done.returncode, "is no tar file" in done.stdout) == (1, True)


# --- broker --------------------------------------------------------------------------------------

BROKER = {
    "mosquitto.conf": "listener 8883\n",
    "acl": "topic read a\n",
    "broker.crt": "certificate\n",
    "broker.key": "key\n",
    "ca.crt": "authority\n",
    "crl.pem": "nobody\n",
    "dynamic-security.json": "{}\n",
}


def test_a_brokers_files_are_put_in_place_and_the_distributions_is_kept(
    machine: Any, tar: Any, tmp_path: Path
) -> None:
    etc = machine.root / "etc/mosquitto"
    etc.mkdir(parents=True)
    (etc / "mosquitto.conf").write_text("the distribution's\n")
    done = machine.install("broker", "--bundle", tar(tmp_path / "broker.tar", BROKER))
    assert done.returncode == 0, done.stdout
    tree = machine.tree()
    assert tree["etc/mosquitto/mosquitto.conf"] == (0o644, "listener 8883\n")
    assert tree["etc/mosquitto/mosquitto.conf.before-fedfstq"][1] == "the distribution's\n"
    assert tree["etc/mosquitto/acl"][0] == 0o640
    assert tree["etc/mosquitto/certs/broker.key"] == (0o400, "key\n")
    assert tree["etc/mosquitto/certs/crl.pem"] == (0o644, "nobody\n")
    again = machine.install("broker", "--bundle", tmp_path / "broker.tar")
    assert again.stdout.splitlines()[-1] == "nothing to change"
    assert machine.tree() == tree


def test_an_acl_that_was_edited_is_kept_and_a_new_crl_is_not_held_up(
    machine: Any, tar: Any, tmp_path: Path
) -> None:
    machine.install("broker", "--bundle", tar(tmp_path / "broker.tar", BROKER))
    acl = machine.root / "etc/mosquitto/acl"
    acl.write_text("topic deny #\n")
    (machine.root / "var/lib/mosquitto/dynamic-security.json").write_text("the broker's\n")
    newer = {**BROKER, "acl": "topic read b\n", "crl.pem": "nano-02\n", "mosquitto.conf": "other\n"}
    done = machine.install("broker", "--bundle", tar(tmp_path / "broker.tar", newer))
    assert "was changed by hand and is kept" in done.stdout
    tree = machine.tree()
    assert tree["etc/mosquitto/acl"][1] == "topic deny #\n"
    assert tree["etc/mosquitto/acl.new"][1] == "topic read b\n"
    assert tree["etc/mosquitto/mosquitto.conf"][1] == "other\n"
    assert tree["etc/mosquitto/certs/crl.pem"][1] == "nano-02\n"
    assert tree["var/lib/mosquitto/dynamic-security.json"][1] == "the broker's\n"


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("agent",), ("fly",), ("upgrade", "--fast"), ("upgrade", "--watch-s", "soon")]
)
def test_a_wrong_command_line_ends_with_2(machine: Any, arguments: tuple[str, ...]) -> None:
    done = machine.install(*arguments)
    assert (done.returncode, "see install.sh help" in done.stdout) == (2, True)
    assert not machine.root.exists() or machine.tree() == {}


def test_an_upgrade_of_nothing_is_refused(machine: Any) -> None:
    done = machine.install("upgrade")
    assert (done.returncode, "nothing is installed here" in done.stdout) == (1, True)


def test_two_runs_at_once_are_one_too_many(machine: Any, bundle: Callable[..., Path]) -> None:
    fcntl = pytest.importorskip("fcntl")
    lock = machine.root / "opt/fedfstq/.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = machine.install("agent", "--bundle", bundle())
    assert (done.returncode, "another install.sh is at work" in done.stdout) == (1, True)


def test_a_systemd_that_cannot_hand_over_keys_gets_a_dropin(
    machine: Any, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    """The unit's LoadCredential is emptied, so that the agent reads its key file itself."""
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text("#!/bin/sh\necho 'systemd 245 (245.4-4ubuntu3)'\n")
    systemctl.chmod(0o755)
    path = f"{systemctl.parent}:{os.environ['PATH']}"
    done = machine.install("agent", "--bundle", bundle(), PATH=path)
    assert done.returncode == 0, done.stdout
    dropin = "etc/systemd/system/fedfstq-agent@.service.d/50-key-file.conf"
    assert machine.tree()[dropin][1].splitlines()[-2:] == ["[Service]", "LoadCredential="]
    # After an upgrade of the distribution it can.
    systemctl.write_text("#!/bin/sh\necho 'systemd 249 (249.11-0ubuntu3.12)'\n")
    machine.install("agent", "--bundle", bundle(), PATH=path)
    assert dropin not in machine.tree()
