"""The kernel's files about memory, under a root of the test's own."""

from pathlib import Path

import pytest

from agent.headroom import available_bytes, boot_id, oom_kills, total_bytes

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINE = {
    "proc/meminfo": "MemTotal: 8192 kB\nMemFree: 10 kB\nMemAvailable:    4096 kB\n",
    "proc/vmstat": "nr_free_pages 5\noom_kill 3\nother 1\n",
    "proc/sys/kernel/random/boot_id": "c0ffee\n",
}
GROUP = "sys/fs/cgroup/system.slice/trainer.service"


def test_a_plain_machine(tmp_path: Path) -> None:
    root = write(tmp_path, MACHINE)
    assert total_bytes(root) == 8 * MIB
    assert available_bytes(root) == 4 * MIB
    assert oom_kills(root) == 3
    assert boot_id(root) == "c0ffee"


def test_what_the_kernel_does_not_tell_is_not_known(tmp_path: Path) -> None:
    assert total_bytes(tmp_path) is None
    assert available_bytes(tmp_path) is None
    assert oom_kills(tmp_path) is None
    assert boot_id(tmp_path) == ""
    write(tmp_path, {"proc/meminfo": "MemTotal: x kB\n", "proc/vmstat": "oom_kill x\n"})
    assert total_bytes(tmp_path) is None
    assert oom_kills(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({f"{GROUP}/memory.max": "max\n", f"{GROUP}/memory.current": "5\n"}, 4 * MIB),
        ({f"{GROUP}/memory.max": f"{3 * MIB}", f"{GROUP}/memory.current": f"{MIB}"}, 2 * MIB),
        ({f"{GROUP}/memory.max": f"{MIB}", f"{GROUP}/memory.current": f"{9 * MIB}"}, 0),
        (
            {
                f"{GROUP}/memory.max": f"{3 * MIB}",
                f"{GROUP}/memory.current": f"{2 * MIB}",
                f"{GROUP}/memory.stat": f"anon 7\ninactive_file {MIB}\nactive_file 0\n",
            },
            2 * MIB,
        ),
        (
            {
                f"{GROUP}/memory.max": f"{3 * MIB}",
                f"{GROUP}/memory.current": "0",
                "sys/fs/cgroup/system.slice/memory.max": f"{MIB}",
                "sys/fs/cgroup/system.slice/memory.current": "0",
            },
            MIB,
        ),
    ],
    ids=["unbounded", "bounded", "over", "cache-counts-as-free", "the-tightest-of-all"],
)
def test_a_control_group_bounds_what_can_be_had(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    own = {"proc/self/cgroup": "12:cpu:/\n0::/system.slice/trainer.service\n"}
    assert available_bytes(write(tmp_path, {**MACHINE, **own, **files})) == expected


def test_a_bound_is_known_where_the_machine_is_not(tmp_path: Path) -> None:
    own = {"proc/self/cgroup": "0::/g\n", "sys/fs/cgroup/g/memory.max": "10"}
    assert available_bytes(write(tmp_path, {**own, "sys/fs/cgroup/g/memory.current": "4"})) == 6


def test_this_machine_tells() -> None:
    total, available = total_bytes(), available_bytes()
    assert total is not None
    assert available is not None
    assert 0 < available <= total
