# shellcheck shell=bash
# A folder that installs on a machine without network: wheels, unit files and this script.

do_wheels() {
  local what=fedfstq tags=() beside=()
  [[ $SOURCE ]] || die "this folder was made by 'install.sh wheels' itself; make another in a source folder"
  [[ $WHEELS_FOR == agent || $WHEELS_FOR == aggregator ]] || misused "--for is agent or aggregator"
  read_device
  ROOT=${ROOT:-/} # nothing is hidden from who makes a folder
  find_python
  mkdir -p "$WHEELS_DIR"
  "$PYTHON" -I -m venv "$TMP/pip"
  copy_source "$TMP/source"
  say "building the wheel of Fed-FSTQ"
  pip_here wheel --no-deps --wheel-dir "$WHEELS_DIR" "$TMP/source"
  what=$(compgen -G "$WHEELS_DIR/fedfstq-*.whl" | sort -V | tail -n 1)
  # What is there for torch may be too old for it.
  [[ $WHEELS_FOR == aggregator ]] || { what+='[agent]' && beside=('setuptools>=77.0.3'); }
  say "finding out what it needs there"
  pip_here install --dry-run --ignore-installed --target "$TMP/none" --report "$TMP/report" \
    --only-binary=:all: "${tags[@]}" "$what" "${beside[@]}"
  needed >"$TMP/needed"
  say "fetching $(wc -l <"$TMP/needed") wheels"
  pip_here download --no-deps --only-binary=:all: "${tags[@]}" --dest "$WHEELS_DIR" \
    --requirement "$TMP/needed"
  mkdir -p "$WHEELS_DIR/install" "$WHEELS_DIR/systemd"
  cp "$here/install.sh" "$WHEELS_DIR/"
  cp "$here"/install/*.sh "$WHEELS_DIR/install/"
  cp "$UNITS"/fedfstq-* "$WHEELS_DIR/systemd/"
  say "copy $WHEELS_DIR ($(du -sh "$WHEELS_DIR" | cut -f1)) to the device, and there:" \
    "bash install.sh $WHEELS_FOR --bundle FILE.tar"
}

pip_here() { "$TMP/pip/bin/python" -m pip --quiet --disable-pip-version-check --no-input "$@"; }

# pip's options for another machine. It takes a wheel only for platforms that are named, and each
# version of the C library is one.
read_device() {
  local minor newest=28 # Debian 10, RHEL 8
  MACHINE='' PYTHON_THERE='' tags=()
  case $DEVICE in
    this) return ;;
    jetpack6) MACHINE=aarch64 PYTHON_THERE=3.10 newest=35 ;;
    jetpack7) MACHINE=aarch64 PYTHON_THERE=3.12 newest=39 ;;
    *-3.1[0-3]) MACHINE=${DEVICE%-*} PYTHON_THERE=${DEVICE##*-} ;;
    *) misused "--device is this, jetpack6, jetpack7, or such as aarch64-3.11" ;;
  esac
  tags=(--implementation cp --python-version "$PYTHON_THERE" --platform "manylinux2014_$MACHINE")
  for ((minor = 17; minor <= newest; minor++)); do
    tags+=(--platform "manylinux_2_${minor}_$MACHINE")
  done
}

# What pip's report says is to be fetched. On a Jetson torch is there, and what only torch needs.
needed() {
  local vendor=0
  [[ $DEVICE != jetpack* && $TORCH != system && $TORCH != /* ]] || vendor=1
  "$TMP/pip/bin/python" -I - "$TMP/report" "$vendor" "$MACHINE" "$PYTHON_THERE" <<'EOT'
import json
import sys

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

path, vendor, machine, python = sys.argv[1:]
there = {"platform_machine": machine} if machine else {}
if python:
    there |= {"python_version": python, "python_full_version": f"{python}.0"}
with open(path, encoding="utf-8") as file:
    found = {canonicalize_name(entry["metadata"]["name"]): entry for entry in json.load(file)["install"]}
wanted, seen = [("fedfstq", ("", "agent"))], set()
if "setuptools" in found:
    seen.add(("setuptools", ("",)))
while wanted:
    name, extras = wanted.pop()
    for line in found[name]["metadata"].get("requires_dist", ()):
        need = Requirement(line)
        other = canonicalize_name(need.name)
        if need.marker and not any(need.marker.evaluate({**there, "extra": extra}) for extra in extras):
            continue
        entry = (other, ("", *sorted(need.extras)))
        if other in found and entry not in seen and not (vendor == "1" and other == "torch"):
            seen.add(entry)
            wanted.append(entry)
for name in sorted({name for name, _ in seen} - {"fedfstq"}):
    print(f"{name}=={found[name]['metadata']['version']}")
EOT
}
