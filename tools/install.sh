#!/usr/bin/env bash
# Installs, upgrades and removes Fed-FSTQ's services on one machine; `install.sh help` says how.
#
# An installation is a whole virtual environment with the unit files that belong to it, in a
# numbered folder of its own. A symbolic link names the one in use, so that a switch, and the way
# back, is one rename; nothing is ever changed inside an environment that runs.
set -euo pipefail
umask 022

usage() {
  cat <<'EOT'
install.sh agent --bundle NAME.tar         a device's agent and trainer
install.sh aggregator --bundle FILE.tar    the aggregator
install.sh broker --bundle FILE.tar        mosquitto's configuration, ACL, certificates, CRL
install.sh upgrade                         a new environment from here; back if it does not hold
install.sh rollback                        back to the environment before this one
install.sh uninstall [--purge]             --purge: configuration, keys, state and user as well
install.sh status                          what is installed, what runs, what this machine is
install.sh wheels DIR [--for ROLE] [--device KIND]
                                           make a folder to install from without network

  --wheels DIR    install from this folder of wheels alone, without network; the install.sh in a
                  folder that `install.sh wheels` has made needs no --wheels
  --torch WHICH   for an agent: pip, system (the torch that --python already has), a site-packages
                  folder that holds one, or auto: on a Jetson system, elsewhere pip
  --python PATH   Python 3.10 to 3.13, not below /home or /root, which the units cannot see
  --no-start      enable the services, start nothing
  --watch-s N     seconds that services must hold in a new environment; 15
  --dry-run       say what would be done, do nothing
  --root DIR      work below this folder, without users, systemd and apt
  --for ROLE      wheels: agent or aggregator; agent
  --device KIND   wheels: this (the default: a machine like this one), jetpack6, jetpack7, or an
                  architecture and a Python such as aarch64-3.11; for jetpack6 and jetpack7 torch
                  is left out, since the device has the vendor's
EOT
}

ROOT='' DRY=0 WHEELS='' BUNDLE='' PYTHON='' TORCH='' START=1 WATCH_S=15 PURGE=0
WHEELS_FOR=agent DEVICE=this CHANGED=0 INSTALLING='' REASON=''
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=install/machine.sh
. "$here/install/machine.sh"
# shellcheck source=install/environment.sh
. "$here/install/environment.sh"
# shellcheck source=install/units.sh
. "$here/install/units.sh"
# shellcheck source=install/bundle.sh
. "$here/install/bundle.sh"
# shellcheck source=install/wheels.sh
. "$here/install/wheels.sh"

read_options() {
  while (($#)); do
    case $1 in
      --dry-run) DRY=1 ;;
      --no-start) START=0 ;;
      --purge) PURGE=1 ;;
      --root | --wheels | --bundle | --python | --torch | --watch-s | --for | --device)
        (($# > 1)) || misused "$1 needs a value"
        case $1 in
          --root) ROOT=$(realpath -m "$2") ;;
          --wheels) WHEELS=$(realpath -e "$2" 2>/dev/null) || die "no folder $2" ;;
          --bundle) BUNDLE=$(realpath -e "$2" 2>/dev/null) || die "no file $2" ;;
          --python) PYTHON=$2 ;;
          --torch) TORCH=$2 ;;
          --watch-s) WATCH_S=$2 ;;
          --for) WHEELS_FOR=$2 ;;
          --device) DEVICE=$2 ;;
        esac
        shift
        ;;
      *) misused "unknown option $1" ;;
    esac
    shift
  done
  [[ $WATCH_S =~ ^[0-9]+$ ]] || misused "--watch-s is a whole number of seconds"
}

# Where things are: on this machine, and here where install.sh lies.
find_places() {
  OPT=$ROOT/opt/fedfstq ETC=$ROOT/etc/fedfstq VAR=$ROOT/var/lib/fedfstq
  SYSTEM=$ROOT/etc/systemd/system COMMAND=$ROOT/usr/local/bin/fedfstq
  SOURCE='' UNITS=$here/systemd
  if grep -qs '^name = "fedfstq"' "$here/../pyproject.toml"; then
    SOURCE=$(realpath "$here/..")
    UNITS=$SOURCE/systemd
  elif [[ -z $WHEELS ]]; then
    WHEELS=$here
  fi
  [[ $WHEELS && -d $WHEELS/systemd ]] && UNITS=$WHEELS/systemd
  [[ -d $UNITS ]] || die "no unit files beside install.sh: run it in a source folder, or in one that 'install.sh wheels' made"
}

main() {
  local command=${1:-help}
  case $command in
    help | --help | -h) usage && return ;;
    agent | aggregator | broker | upgrade | rollback | uninstall | status) shift ;;
    wheels)
      [[ ${2:-} && ${2:-} != -* ]] || misused "wheels needs a folder to make"
      WHEELS_DIR=$(realpath -m "$2")
      shift 2
      ;;
    *) misused "unknown command $command" ;;
  esac
  read_options "$@"
  find_places
  UNFINISHED='' TMP=$(mktemp -d)
  trap 'rm -rf "$TMP" ${UNFINISHED:+"$UNFINISHED"}' EXIT
  case $command in
    status | wheels) ;;
    *) prepare ;;
  esac
  "do_$command"
  case $command in
    status | wheels) ;;
    *) ((CHANGED)) || say "nothing to change" ;;
  esac
}

prepare() {
  [[ $ROOT || $DRY == 1 || $(id -u) == 0 ]] || die "this needs root"
  [[ $ROOT || $DRY == 1 || -d /run/systemd/system ]] || die "this machine was not booted with systemd"
  if ((!DRY)); then
    mkdir -p "$OPT"
    exec 9>"$OPT/.lock"
    flock --nonblock 9 || die "another install.sh is at work here"
  fi
}

# agent and aggregator: user, configuration, environment, units.
install_role() {
  [[ $BUNDLE ]] || misused "$1 needs --bundle"
  open_bundle "$BUNDLE"
  INSTALLING=$(bundle_unit "$1")
  choose_environment
  make_user "$1"
  place_bundle
  if [[ $NEW == "$(current)" ]]; then
    refresh
  else
    deploy_tried "$(current)"
  fi
  link_command
  ((START)) || { say "enabled, not started: systemctl start $INSTALLING" && return; }
  if ! holds "$INSTALLING"; then
    say "It is installed, and starts at boot, but does not run yet:"
    say "  $REASON"
    die "mend that, then: systemctl restart $INSTALLING"
  fi
}

do_agent() { install_role agent; }
do_aggregator() { install_role aggregator; }

do_upgrade() {
  local before
  before=$(current)
  [[ $before ]] || die "nothing is installed here; begin with: install.sh agent or install.sh aggregator"
  choose_environment
  if [[ $NEW == "$before" ]]; then
    say "environment $before has $(noted "$before" version) already"
    return
  fi
  deploy_tried "$before"
}

# A new environment comes in only where its doctor finds nothing that the present one's did not.
deploy_tried() {
  if [[ $1 ]] && ! suits "$NEW" "$1"; then
    rm -rf "$OPT/venvs/${NEW:?}"
    die "environment $1 stays in use; of the new one the doctor says: $REASON"
  fi
  deploy "$NEW"
  ((DRY)) || say "environment $NEW: $(noted "$NEW" version)"
}

do_rollback() {
  local before number previous=''
  before=$(current)
  for number in $(complete); do
    [[ $before ]] && ((number < before)) && previous=$number
  done
  [[ $previous ]] || die "there is no environment before ${before:-the first}"
  deploy "$previous"
  say "environment $previous: $(noted "$previous" version)"
}

do_uninstall() {
  remove_units
  [[ $(readlink "$COMMAND") != "$OPT/venv/bin/fedfstq" ]] || act rm -f "$COMMAND"
  [[ -e $OPT/venv || -d $OPT/venvs ]] && act rm -rf "$OPT"
  if ((!PURGE)); then
    [[ -d $ETC || -d $VAR ]] && say "left: $ETC and $VAR, with keys and what waits to be sent (--purge removes them)"
    return 0
  fi
  [[ -d $ETC ]] && act rm -rf "$ETC"
  [[ -d $VAR ]] && act rm -rf "$VAR"
  [[ $ROOT ]] || ! getent passwd fedfstq >/dev/null || act userdel fedfstq
}

do_status() {
  local before number unit
  before=$(current)
  say "machine: $(describe_machine)"
  for number in $(complete); do
    say "environment $number$([[ $number == "$before" ]] && echo ' (in use)'): $(noted "$number" version)," \
      "$(noted "$number" extras), torch $(noted "$number" torch), $(noted "$number" python)"
  done
  [[ $before ]] || say "nothing is installed below $OPT"
  [[ $ROOT ]] && return
  for unit in $(services "$SYSTEM" all); do
    say "$unit: $(systemctl is-active "$unit" || true), $(systemctl is-enabled "$unit" || true)"
  done
}

main "$@"
