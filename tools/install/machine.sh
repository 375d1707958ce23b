# shellcheck shell=bash
# What this machine is, and the one way in which it is changed.

say() { printf '%s\n' "$*"; }
die() {
  printf 'install.sh: %s\n' "$*" >&2
  exit 1
}
misused() {
  printf 'install.sh: %s (see install.sh help)\n' "$*" >&2
  exit 2
}

# Every change goes through here.
act() {
  CHANGED=1
  if ((DRY)); then say "would: $*"; else "$@"; fi
}

# put FILE DEST MODE OWNER: the file, its mode and owner; nothing where all of it is so already.
# PUT says whether there was something to do.
put() {
  local have='' want=$3 owned=()
  PUT=0
  [[ $ROOT ]] || { want="$3 $4" && owned=(-o "${4%:*}" -g "${4#*:}"); }
  [[ -e $2 ]] && have=$(stat -c '%a' "$2")
  [[ $have && -z $ROOT ]] && have+=" $(stat -c '%U:%G' "$2")"
  if [[ $have == "$want" ]] && cmp -s "$1" "$2"; then return 0; fi
  PUT=1
  ((DRY)) || say "writing $2"
  act install -D -m "$3" "${owned[@]}" "$1" "$2"
}

# folder PATH MODE OWNER
folder() {
  local owned=()
  [[ -d $1 ]] && return
  [[ $ROOT ]] || owned=(-o "${3%:*}" -g "${3#*:}")
  act install -d -m "$2" "${owned[@]}" "$1"
}

make_user() { # make_user ROLE
  local group
  if [[ -z $ROOT ]]; then
    getent passwd fedfstq >/dev/null ||
      act useradd --system --user-group --home-dir /var/lib/fedfstq --no-create-home \
        --shell /usr/sbin/nologin fedfstq
    # The trainer's unit names both; who may open a GPU's device files.
    for group in video render; do
      [[ $1 != agent ]] || getent group $group >/dev/null || act groupadd --system $group
    done
  fi
  folder "$ETC" 750 root:fedfstq
  folder "$ETC/certs" 750 root:fedfstq
  folder "$VAR" 755 root:root
}

link_command() { # operators type `fedfstq`
  if [[ -e $COMMAND || -L $COMMAND ]]; then return; fi
  folder "$(dirname "$COMMAND")" 755 root:root
  act ln -s "$OPT/venv/bin/fedfstq" "$COMMAND"
}

# --- Board, Python, torch -------------------------------------------------------------------------

board() { { tr -d '\0' <"$ROOT/proc/device-tree/model"; } 2>/dev/null || true; }
is_jetson() { [[ -e $ROOT/etc/nv_tegra_release || $(board) == *Jetson* ]]; }
l4t() {
  sed -n 's/^# R\([0-9]*\) .*REVISION: \([0-9.]*\).*/\1.\2/p' "$ROOT/etc/nv_tegra_release" \
    2>/dev/null || true
}
systemd_version() { systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p' || true; }

describe_machine() {
  local text
  text="$(uname -m), Linux $(uname -r), systemd $(systemd_version)"
  is_jetson && text="$(board), L4T $(l4t), $text"
  say "$text"
}

# Where the torch is that fits a JetPack; PyPI's is built for another CUDA.
vendor_torch() {
  local index=https://pypi.jetson-ai-lab.io
  case $(l4t) in
    35.*) say "JetPack 5 has Python 3.8, and Fed-FSTQ needs 3.10 or later: install JetPack 6" ;;
    36.*) say "JetPack 6: python3 -m pip install --index-url $index/jp6/cu126 torch" ;;
    38.* | 39.*)
      say "JetPack 7: python3 -m pip install --break-system-packages --index-url $index/sbsa/cu130 torch"
      ;;
    *) say "docs.nvidia.com has it under 'Installing PyTorch for Jetson Platform'" ;;
  esac
}

# The first Python that can be used; the units hide /home and /root.
find_python() {
  local candidate fits prefix
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    candidate=$(PATH=${PYTHON:+$PATH:}/usr/local/bin:/usr/bin:/bin command -v "$candidate") || continue
    fits=$("$candidate" -I -c 'import sys; print((3, 10) <= sys.version_info < (3, 14))')
    prefix=$("$candidate" -I -c 'import sys; print(sys.base_prefix)')
    [[ $fits == True ]] || continue
    if [[ -z $ROOT ]] && hidden "$prefix"; then
      [[ -z $PYTHON ]] || die "$candidate lives in $prefix, which the units cannot see; take one below /usr or /opt"
      continue
    fi
    "$candidate" -I -c 'import ensurepip, venv' 2>/dev/null ||
      die "$candidate cannot make virtual environments: apt install python3-venv"
    PYTHON=$(base_of "$candidate")
    return
  done
  die "no Python 3.10 to 3.13${PYTHON:+ at $PYTHON}: install one, or name one with --python"
}

# The Python that a virtual environment was made with: a new one made from it sees that one's
# packages, not the first one's.
base_of() {
  "$1" -I -c 'import sys
print(sys.argv[1] if sys.prefix == sys.base_prefix else sys._base_executable)' "$1"
}

hidden() { [[ $1/ =~ ^/(home|root)/ ]]; }

# torch_of PYTHON [FOLDER]: torch's version, its CUDA, and the version that pip knows.
torch_of() {
  "$1" -I - "${@:2}" <<'EOT' 2>"$TMP/torch"
import sys
sys.path[:0] = [folder for folder in sys.argv[1:] if folder != "with-numpy"]
import torch
from importlib.metadata import version
if "with-numpy" in sys.argv:
    import numpy
    torch.from_numpy(numpy.zeros(1, "float32"))
print(torch.__version__, torch.version.cuda, version("torch"))
EOT
}

# Settles TORCH, and TORCH_FOUND where one is to be kept.
find_torch() {
  local before version cuda _
  TORCH_FOUND='' before=$(current)
  [[ $TORCH || -z $before ]] || TORCH=$(noted "$before" torch)
  is_jetson && say "this is a Jetson: $(describe_machine)"
  if [[ -z $TORCH || $TORCH == auto || $TORCH == none ]]; then
    TORCH=pip
    if is_jetson; then TORCH=system; fi
  fi
  case $TORCH in
    pip)
      if is_jetson; then say "warning: PyPI's torch is built for another CUDA than this board's"; fi
      return
      ;;
    system)
      TORCH_FOUND=$(torch_of "$PYTHON") || {
        is_jetson && die "$PYTHON has no torch. As root, and not with --user, install the vendor's: $(vendor_torch)"
        die "$PYTHON has no torch; --torch pip installs one"
      }
      ;;
    /*)
      TORCH_FOUND=$(torch_of "$PYTHON" "$TORCH") || die "$PYTHON imports no torch from $TORCH"
      if [[ -z $ROOT ]] && hidden "$TORCH"; then die "$TORCH: the units cannot see /home and /root"; fi
      ;;
    *) misused "--torch is auto, pip, system or the absolute path of a folder" ;;
  esac
  read -r version cuda _ <<<"$TORCH_FOUND"
  say "torch $version ($([[ $cuda == None ]] && echo 'no CUDA' || echo "CUDA $cuda")) is there and stays"
}
