# shellcheck shell=bash
# Numbered environments below /opt/fedfstq/venvs, and the link that names the one in use.

EXAMINED=configuration,python,packages,torch,cuda # what the doctor can say before a switch

current() { if [[ -L $OPT/venv ]]; then basename "$(readlink "$OPT/venv")"; fi; }
noted() { sed -n "s/^$2=//p" "$OPT/venvs/$1/installed"; }
complete() { # the numbers of finished environments, oldest first
  local file
  for file in "$OPT"/venvs/*/installed; do
    if [[ -e $file ]]; then basename "$(dirname "$file")"; fi
  done | sort -n
}

# NEW is the number of the environment that is wanted: the present one, where nothing is different.
choose_environment() {
  local before
  before=$(current)
  [[ $PYTHON || -z $before ]] || PYTHON=$(noted "$before" python)
  find_python
  EXTRAS=base TORCH_FOUND=''
  if has_role agent; then
    EXTRAS=agent
    find_torch
  else
    TORCH=none
  fi
  FINGERPRINT=$(fingerprint)
  if [[ $before && $(noted "$before" fingerprint) == "$FINGERPRINT" ]]; then
    NEW=$before
  else
    make_environment
  fi
}

# A hash of all that decides what an environment is.
fingerprint() {
  {
    say "$EXTRAS $TORCH $TORCH_FOUND"
    "$PYTHON" -I -c 'import sys; print(sys.version, sys.base_prefix)'
    if [[ $WHEELS ]]; then
      (cd "$WHEELS" && printf '%s\n' *.whl && sha256sum fedfstq-*.whl 2>/dev/null) || true
    fi
    if [[ $SOURCE ]] && ! wheel_of_fedfstq; then
      copy_source "$TMP/seen"
      (cd "$TMP/seen" && find . -type f -print0 | sort -z | xargs -0 sha256sum)
    fi
    cat "$UNITS"/fedfstq-*
  } | sha256sum | cut -d' ' -f1
}

wheel_of_fedfstq() { [[ $WHEELS ]] && compgen -G "$WHEELS/fedfstq-*.whl" >/dev/null; }

copy_source() { # without what a checkout has beside the source
  local without=(--exclude='./.*' --exclude=./tests --exclude=./docs --exclude=./build)
  without+=(--exclude=./dist --exclude='*.egg-info' --exclude=__pycache__ --exclude='./*-out')
  mkdir -p "$1"
  tar -C "$SOURCE" "${without[@]}" -cf - . | tar -C "$1" -xf -
}

make_environment() {
  local last with_system=() folder purelib
  last=$(complete | tail -n 1)
  NEW=$((${last:-0} + 1)) folder=$OPT/venvs/$((${last:-0} + 1))
  act_on_environment || return 0
  rm -rf "$folder" # what an interrupted run has left
  mkdir -p "$OPT/venvs"
  UNFINISHED=$folder
  [[ $TORCH != system ]] || with_system=(--system-site-packages)
  "$PYTHON" -I -m venv "${with_system[@]}" "$folder"
  : >"$TMP/constraints"
  [[ -z $TORCH_FOUND ]] || say "torch==${TORCH_FOUND##* }" >"$TMP/constraints"
  # Python before 3.12 puts an old setuptools here, which would hide the one that torch came with.
  [[ -z $TORCH_FOUND ]] || pip_of "$folder" uninstall --yes setuptools
  if [[ $TORCH == /* ]]; then
    purelib=$("$folder/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    say "$TORCH" >"$purelib/torch-is-elsewhere.pth"
  fi
  install_wheels "$folder" || die "pip could not install Fed-FSTQ; what runs here was not touched"
  try_environment "$folder"
  install -D -m 644 -t "$folder/units" "$UNITS"/fedfstq-*
  printf '%s\n' "version=$VERSION" "extras=$EXTRAS" "torch=$TORCH" "python=$PYTHON" \
    "fingerprint=$FINGERPRINT" >"$folder/installed"
  UNFINISHED=''
}

act_on_environment() { # says what comes; false where saying is all
  CHANGED=1
  if ((DRY)); then
    say "would: make environment $NEW with $PYTHON from ${WHEELS:-$SOURCE}"
    return 1
  fi
  say "making environment $NEW with $PYTHON from ${WHEELS:-$SOURCE}"
}

# Fed-FSTQ by itself first, whatever other one a folder with torch may hold; then what it needs.
install_wheels() { # install_wheels ENVIRONMENT
  local wheel need=fedfstq
  [[ $EXTRAS != agent ]] || need='fedfstq[agent]'
  if wheel_of_fedfstq; then
    wheel=$(compgen -G "$WHEELS/fedfstq-*.whl" | sort -V | tail -n 1)
  else
    [[ $SOURCE ]] || die "$WHEELS has no wheel of fedfstq, and there is no source beside install.sh"
    copy_source "$TMP/source"
    pip_of "$1" wheel --no-deps --wheel-dir "$TMP/built" "$TMP/source" || return
    wheel=$(compgen -G "$TMP/built/fedfstq-*.whl")
  fi
  pip_of "$1" install --no-deps --ignore-installed "$wheel" || return
  pip_of "$1" install --constraint "$TMP/constraints" "$need"
}

pip_of() { # pip_of ENVIRONMENT COMMAND ARGUMENT…
  local folder=$1 isolated=() offline=()
  if [[ $WHEELS && $2 != uninstall ]]; then
    isolated=(--isolated) offline=(--no-index --find-links "$WHEELS")
  fi
  "$folder/bin/python" -m pip "${isolated[@]}" "$2" --quiet --disable-pip-version-check --no-input \
    "${offline[@]}" "${@:3}"
}

# What can be known before the switch.
try_environment() {
  local after python=$1/bin/python
  VERSION=$("$1/bin/fedfstq" --version) ||
    die "fedfstq does not start in the new environment; what runs here was not touched"
  [[ $EXTRAS == agent ]] || return 0
  after=$(torch_of "$python" with-numpy) ||
    die "torch does not work in the new environment: $(tail -n 1 "$TMP/torch")"
  [[ -z $TORCH_FOUND || $after == "$TORCH_FOUND" ]] ||
    die "torch was to stay $TORCH_FOUND, and has become $after"
}

# suits NUMBER BEFORE: a doctor of the new version finds nothing wrong that the old one did not.
suits() {
  local config line
  for config in "$ETC"/agent-*.yaml "$ETC/aggregator.yaml"; do
    [[ -e $config && $DRY == 0 ]] || continue
    complaints "$2" "$config" >"$TMP/before"
    while IFS=$'\t' read -r check line; do
      grep -q "^$check"$'\t' "$TMP/before" || REASON="$config: $line"
    done < <(complaints "$1" "$config")
  done
  [[ -z $REASON ]]
}

# complaints NUMBER CONFIG: each check that fails and what it says; nothing from a version without.
complaints() {
  local folder=$OPT/venvs/$1
  "$folder/bin/fedfstq" doctor --json --offline --only "$EXAMINED" "$2" 2>/dev/null |
    "$folder/bin/python" -I -c 'import json, sys
try:
    findings = json.load(sys.stdin)
except ValueError:
    sys.exit()
for one in findings:
    if one["state"] == "FAIL":
        print(one["check"], f"{one['"'text'"']}; {one['"'mend'"']}", sep="\t")' || true
}

point_at() { # the switch
  if [[ -d $OPT/venv && ! -L $OPT/venv ]]; then
    say "$OPT/venv was made by hand; it is kept as $OPT/venv.by-hand"
    act mv -T "$OPT/venv" "$OPT/venv.by-hand"
  fi
  act ln -sfn "venvs/$1" "$OPT/.venv.next"
  act mv -fT "$OPT/.venv.next" "$OPT/venv"
}

prune() { # the one in use and the newest beside it stay
  local number beside=0
  for number in $(complete | sort -rn); do
    [[ $number != "$(current)" ]] || continue
    beside=$((beside + 1))
    ((beside < 2)) || act rm -rf "$OPT/venvs/$number"
  done
}
