# shellcheck shell=bash
# What `fedfstq init` has packed for one machine, and where it belongs.

# open_bundle FILE: unpacks it into $TMP/bundle. A bundle is a flat folder of plain files.
open_bundle() {
  local name
  mkdir -m 700 "$TMP/bundle"
  tar -tf "$1" >"$TMP/names" 2>/dev/null || die "$1 is no tar file"
  while IFS= read -r name; do
    [[ $name =~ ^(\./)?([a-zA-Z0-9_-][a-zA-Z0-9._-]*)?$ ]] || die "$1: $name does not belong into a bundle"
    case $name in
      *.yaml | *.key | *.crt | *.pem | */ | *mosquitto.conf | *acl | *dynamic-security.json) ;;
      *) die "$1 holds $name, which this version does not know" ;;
    esac
  done <"$TMP/names"
  tar -C "$TMP/bundle" --no-same-owner -xf "$1"
  [[ -z $(find "$TMP/bundle" -mindepth 1 ! -type f) ]] || die "$1 holds more than plain files"
  if [[ -z $ROOT && $(stat -c %A "$1") == *r-- ]]; then
    say "warning: everybody can read $1, and it holds a private key; delete it afterwards"
  fi
}

in_bundle() { compgen -G "$TMP/bundle/$1" >/dev/null; }

# bundle_unit ROLE: the service that the bundle is for, once it is known to be complete.
bundle_unit() {
  local files name login
  mapfile -t files < <(cd "$TMP/bundle" && compgen -G '*.yaml')
  [[ ${#files[@]} == 1 ]] || die "$BUNDLE holds ${#files[@]} YAML files, and one is wanted"
  name=${files[0]%.yaml}
  case $1:$name in
    agent:agent-*) [[ ${name#agent-} =~ ^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$ ]] || die "${name#agent-} is no device's name" ;;
    aggregator:aggregator) ;;
    *) die "$BUNDLE is not for this: it holds ${files[0]}, so use: install.sh ${name%%-*}" ;;
  esac
  login=$(cd "$TMP/bundle" && compgen -G '*.key')
  [[ $login == *.key && $login != *$'\n'* ]] || die "$BUNDLE must hold one key"
  [[ $1 == aggregator || $login == "${name#agent-}.key" ]] || die "$BUNDLE: $login is not the key of ${name#agent-}"
  for name in "${login%.key}.crt" ca.crt; do
    in_bundle "$name" || die "$BUNDLE is incomplete: it has no $name"
  done
  case $1 in
    agent) say "fedfstq-agent@${files[0]:6:-5}.service" ;;
    aggregator) say fedfstq-aggregator.service ;;
  esac
}

# Puts the files in place. RENEWED says whether certificates or keys are others than before.
place_bundle() {
  local file name owner=fedfstq:fedfstq unit
  RENEWED=0
  unit=$UNITS/${INSTALLING/@*.service/@.service}
  if loads_keys "$unit"; then owner=root:root; fi
  for file in "$TMP/bundle"/*; do
    name=$(basename "$file")
    case $name in
      *.yaml) place_yaml "$file" "$ETC/$name" ;;
      *.key)
        put "$file" "$ETC/certs/$name" 600 "$owner"
        RENEWED=$((RENEWED | PUT))
        ;;
      *.crt | *.pem)
        put "$file" "$ETC/certs/$name" 644 root:root
        RENEWED=$((RENEWED | PUT))
        ;;
    esac
  done
}

place_yaml() { # place_yaml FILE DEST: never over a person's edits
  if [[ ! -e $2 ]]; then
    put "$1" "$2" 640 root:fedfstq
  elif cmp -s "$1" "$2"; then
    [[ ! -e $2.new ]] || act rm -f "$2.new"
  else
    put "$1" "$2.new" 640 root:fedfstq
    say "$2 is kept as it is; the bundle's is beside it: $2.new"
  fi
}

# --- Broker ---------------------------------------------------------------------------------------

do_broker() {
  local name
  [[ $BUNDLE ]] || misused "broker needs --bundle"
  open_bundle "$BUNDLE"
  for name in mosquitto.conf acl broker.crt broker.key ca.crt; do
    in_bundle "$name" || die "$BUNDLE is not the broker's: it has no $name"
  done
  need_mosquitto
  CHANGED=0 # all that the broker has to be restarted for comes now
  place_broker "$ROOT/etc/mosquitto"
  [[ $ROOT ]] && return
  if ((CHANGED)); then
    act systemctl --quiet enable mosquitto
    act systemctl restart mosquitto
  elif ! systemctl is-active --quiet mosquitto; then
    act systemctl restart mosquitto
  fi
  WATCH_S=2
  holds mosquitto.service || die "$REASON"
}

need_mosquitto() {
  if [[ $ROOT ]] || command -v mosquitto >/dev/null || [[ -x /usr/sbin/mosquitto ]]; then return; fi
  say "mosquitto is missing; apt installs it"
  act apt-get install --yes --no-install-recommends mosquitto ||
    die "mosquitto is missing and apt cannot get it: install mosquitto 2.0.11 or later first"
}

place_broker() { # place_broker FOLDER
  local file name state=$ROOT/var/lib/mosquitto
  for file in "$TMP/bundle"/*; do
    name=$(basename "$file")
    case $name in
      mosquitto.conf) place_edited "$file" "$1/$name" 644 root:root ;;
      acl) place_edited "$file" "$1/$name" 640 root:mosquitto ;;
      *.key) put "$file" "$1/certs/$name" 400 mosquitto:mosquitto ;;
      *.crt | *.pem) put "$file" "$1/certs/$name" 644 root:root ;;
      # The broker writes this one itself: what is there is newer than any bundle.
      dynamic-security.json)
        [[ -e $state/$name ]] || put "$file" "$state/$name" 600 mosquitto:mosquitto
        ;;
    esac
  done
}

# place_edited FILE DEST MODE OWNER: over what this script or the distribution has put there, and
# beside what a person has changed since. A hidden copy tells the two apart.
place_edited() {
  local ours
  ours=$(dirname "$2")/.$(basename "$2").installed
  if [[ -e $2 && -e $ours ]] && ! cmp -s "$2" "$ours" && ! cmp -s "$1" "$2"; then
    if ! cmp -s "$1" "$ours"; then
      put "$1" "$2.new" "$3" "$4"
      say "$2 was changed by hand and is kept; the bundle's is beside it: $2.new"
    fi
    return
  fi
  if [[ -e $2 && ! -e $ours ]] && ! cmp -s "$1" "$2"; then
    say "$2 is kept as $2.before-fedfstq"
    act cp -p "$2" "$2.before-fedfstq"
  fi
  put "$1" "$2" "$3" "$4"
  put "$1" "$ours" "$3" "$4"
}
