# shellcheck shell=bash
# The unit files of an environment, and whether what they start holds.

SETTLE_S=180 # a unit has so long to become active: a trainer may load a base model

# has_role ROLE: by the configuration, or because it is being installed.
has_role() {
  case $1 in
    agent) [[ $INSTALLING == fedfstq-agent@* ]] || compgen -G "$ETC/agent-*.yaml" >/dev/null ;;
    aggregator) [[ $INSTALLING == fedfstq-aggregator* || -e $ETC/aggregator.yaml ]] ;;
  esac
}

devices() { # the names of this machine's agents
  local file
  {
    for file in "$ETC"/agent-*.yaml; do
      file=$(basename "$file" .yaml)
      [[ $file == 'agent-*' ]] || say "${file#agent-}"
    done
    [[ $INSTALLING != fedfstq-agent@* ]] || { file=${INSTALLING#*@} && say "${file%.service}"; }
  } | sort -u
}

unit_files() { # unit_files FOLDER: those of this machine's roles
  if has_role agent; then compgen -G "$1/fedfstq-agent@*.*" && compgen -G "$1/fedfstq-trainer@*.*"; fi
  if has_role aggregator; then compgen -G "$1/fedfstq-aggregator.*"; fi
  true
}

# services FOLDER all|enabled: this machine's units; `enabled` those that boot starts.
services() {
  local file unit device
  for file in $(unit_files "$1"); do
    [[ -f $file ]] || continue
    if [[ $2 == enabled ]] && ! grep -q '^\[Install\]' "$file"; then continue; fi
    unit=$(basename "$file")
    case $unit in
      *@.*) for device in $(devices); do say "${unit/@/@$device}"; done ;;
      *) say "$unit" ;;
    esac
  done
}

# Puts the files of FOLDER in place, and takes away what an earlier version had besides.
install_units() {
  local file unit reload=0
  for file in "$SYSTEM"/fedfstq-*; do
    [[ -f $file && ! -e $1/$(basename "$file") ]] || continue
    act rm -f "$file"
    reload=1
  done
  for file in $(unit_files "$1"); do
    unit=$(basename "$file")
    put "$file" "$SYSTEM/$unit" 644 root:root
    reload=$((reload | PUT))
    key_by_itself "$file" "$SYSTEM/$unit.d/50-key-file.conf"
    reload=$((reload | PUT))
  done
  ((!reload)) || [[ $ROOT ]] || act systemctl daemon-reload
}

# loads_keys UNIT_FILE: whether systemd hands the service its key; it cannot before version 247.
loads_keys() {
  local version
  version=$(systemd_version)
  ((${version:-247} >= 247)) && grep -q '^LoadCredential=.' "$1"
}

key_by_itself() { # key_by_itself UNIT_FILE DROPIN
  PUT=0
  if grep -q '^LoadCredential=.' "$1" && ! loads_keys "$1"; then
    printf '%s\n' '# This systemd cannot hand over keys: the service reads its own.' '[Service]' \
      'LoadCredential=' >"$TMP/dropin"
    put "$TMP/dropin" "$2" 644 root:root
  elif [[ -e $2 ]]; then
    act rm -f "$2"
    PUT=1
  fi
}

# --- Running --------------------------------------------------------------------------------------

in_state() { # in_state STATES UNIT…: those of the units whose ActiveState is one of STATES
  local states=$1 unit state
  shift
  for unit in "$@"; do
    state=$(systemctl show --value --property=ActiveState "$unit")
    if [[ " $states " == *" $state "* ]]; then say "$unit"; fi
  done
}

reason_of() { # why a unit does not run, in one line
  local code last
  code=$(systemctl show --value --property=ExecMainStatus "$1")
  last=$(journalctl --quiet --no-pager --output=cat --lines=20 _SYSTEMD_UNIT="$1" | tail -n 1)
  say "$1 is $(systemctl is-active "$1" || true), exit code $code; its last line: $last"
}

restarts() { systemctl show --property=Id,NRestarts,MainPID "$@"; }

gave_up() { # failed for good, or twice in a row
  local again
  again=$(systemctl show --value --property=NRestarts "$1")
  ((${again:-0} > 1)) || systemctl is-failed --quiet "$1"
}

# holds UNIT…: all become active, and stay so for WATCH_S without a restart; else REASON says why.
holds() {
  local unit give_up=$((SECONDS + SETTLE_S)) before second
  REASON=''
  if [[ $ROOT || $DRY == 1 || $# == 0 ]]; then return 0; fi
  for unit in "$@"; do
    until systemctl is-active --quiet "$unit"; do
      if ((SECONDS > give_up)) || gave_up "$unit"; then
        REASON=$(reason_of "$unit")
        return 1
      fi
      sleep 0.3
    done
  done
  before=$(restarts "$@")
  say "active: $*; watching for $WATCH_S s"
  for ((second = 0; second <= WATCH_S; second++)); do
    ((!second)) || sleep 1
    for unit in "$@"; do
      if ! systemctl is-active --quiet "$unit" || [[ $before != *$(restarts "$unit")* ]]; then
        REASON="it did not stay up for $WATCH_S s: $(reason_of "$unit")"
        return 1
      fi
    done
  done
}

# restart FOLDER UNIT…: stops all, starts these. Sockets come before the services that they start.
restart() {
  local folder=$1 all
  shift
  if [[ $ROOT || $# == 0 ]]; then return; fi
  mapfile -t all < <(services "$folder" all)
  act systemctl stop "${all[@]}"
  [[ $DRY == 1 ]] || systemctl reset-failed "${all[@]}" 2>/dev/null || true
  mapfile -t all < <(printf '%s\n' "$@" | sort -u | sort -t. -k2,2r)
  act systemctl start --no-block "${all[@]}"
}

wanted() { # wanted FOLDER: what is being installed, with its trainer
  local device
  [[ $INSTALLING ]] || return 0
  case $INSTALLING in
    fedfstq-agent@*)
      device=${INSTALLING#*@}
      services "$1" enabled | grep -F "@${device%.service}." ;;
    *) say "$INSTALLING" ;;
  esac
}

# deploy NUMBER: switches, restarts and looks; what held before and does not now leads back.
deploy() {
  local before units=$OPT/venvs/$1/units awake=() held=() new=()
  before=$(current)
  if ((DRY)) && [[ ! -d $units ]]; then units=$UNITS; fi
  if [[ -z $ROOT && $before ]]; then
    mapfile -t held < <(services "$SYSTEM" enabled)
    mapfile -t awake < <(in_state 'active activating reloading failed' "${held[@]}")
    mapfile -t held < <(in_state 'active reloading' "${held[@]}")
  fi
  mapfile -t new < <(wanted "$units")
  point_at "$1"
  install_units "$units"
  [[ $ROOT || ${#new[@]} == 0 ]] || act systemctl --quiet enable "${new[@]}"
  ((START)) || new=()
  restart "$units" "${awake[@]}" "${new[@]}"
  if ! holds "${held[@]}"; then
    go_back "$before" "${awake[@]}"
    die "back in environment $before, for the new one did not hold: $REASON"
  fi
  prune
}

go_back() { # go_back NUMBER UNIT…
  local why=$REASON failed
  failed=$(current)
  say "going back to environment $1: $why"
  point_at "$1"
  install_units "$OPT/venvs/$1/units"
  restart "$OPT/venvs/$1/units" "${@:2}"
  ((failed < $1)) || rm -rf "$OPT/venvs/${failed:?}"
  holds "${@:2}" || say "warning: environment $1 does not hold either: $REASON"
  REASON=$why
}

# refresh: the environment is the present one; certificates, units or a device may be new.
refresh() {
  local units new=() idle=()
  units=$OPT/venvs/$(current)/units
  install_units "$units"
  [[ $ROOT ]] && return
  mapfile -t new < <(wanted "$units")
  mapfile -t idle < <(for unit in "${new[@]}"; do systemctl is-enabled --quiet "$unit" || say "$unit"; done)
  [[ ${#idle[@]} == 0 ]] || act systemctl --quiet enable "${idle[@]}"
  ((START)) || return 0
  if ((RENEWED)); then
    act systemctl restart --no-block "$INSTALLING"
  fi
  mapfile -t idle < <(in_state 'inactive failed' "${new[@]}")
  [[ ${#idle[@]} == 0 ]] || act systemctl start --no-block "${idle[@]}"
}

remove_units() {
  local file
  if [[ -z $ROOT ]]; then
    [[ -z $(systemctl list-units --plain --no-legend 'fedfstq-*') ]] || act systemctl stop 'fedfstq-*'
    [[ $DRY == 1 ]] || systemctl reset-failed 'fedfstq-*' 2>/dev/null || true
  fi
  while IFS= read -r file; do
    act rm -rf "$file"
  done < <(find "$SYSTEM" -name 'fedfstq-*' 2>/dev/null | sort)
  [[ $ROOT || $CHANGED == 0 ]] || act systemctl daemon-reload
}
