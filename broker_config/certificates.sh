#!/bin/sh
# Makes the certificates of a fleet in one folder, with openssl alone.
#
#   certificates.sh FOLDER ca                  once: the fleet's own authority
#   certificates.sh FOLDER broker HOST...      the broker, under every name or address used for it
#   certificates.sh FOLDER login NAME...       one per service or person: coord, operator, nano-01
#
# FOLDER/ca.key signs whom the broker believes: keep it off the broker and the devices.
set -eu
umask 077

CA_DAYS=3650    # replacing the authority means visiting every device
LEAF_DAYS=730   # long enough for devices that are visited rarely; mark the day in a calendar

fail() { echo "certificates.sh: $1" >&2; exit 2; }

absent() {
  [ ! -e "$1" ] || fail "$1 exists already; move it away to make it again"
}

# key FILE: a P-256 key, which small boards verify in about a millisecond.
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

# sign NAME COMMON_NAME EXTENSIONS: writes NAME.key and NAME.crt, signed by the authority.
sign() {
  [ -e ca.key ] || fail "no ca.key in $PWD; run 'certificates.sh FOLDER ca' first"
  absent "$1.crt"
  key "$1.key"
  printf '%s\n' '[req]' 'distinguished_name=dn' 'prompt=no' '[dn]' "CN=$2" '[leaf]' \
    'basicConstraints=critical,CA:FALSE' 'keyUsage=critical,digitalSignature' \
    'subjectKeyIdentifier=hash' 'authorityKeyIdentifier=keyid' "$3" > "$1.cnf"
  openssl req -new -config "$1.cnf" -key "$1.key" -out "$1.csr"
  openssl x509 -req -sha256 -days "$LEAF_DAYS" -in "$1.csr" -CA ca.crt -CAkey ca.key \
    -set_serial "0x$(openssl rand -hex 16)" -extfile "$1.cnf" -extensions leaf -out "$1.crt" \
    2> "$1.log" || { cat "$1.log" >&2; exit 1; }
  rm -f "$1.cnf" "$1.csr" "$1.log"
  chmod 644 "$1.crt"
  echo "$PWD/$1.crt"
}

authority() {
  absent ca.key
  key ca.key
  printf '%s\n' '[req]' 'distinguished_name=dn' 'prompt=no' 'x509_extensions=ca' '[dn]' \
    'CN=fedfstq fleet authority' '[ca]' 'basicConstraints=critical,CA:TRUE,pathlen:0' \
    'keyUsage=critical,keyCertSign,cRLSign' 'subjectKeyIdentifier=hash' > ca.cnf
  openssl req -x509 -new -sha256 -config ca.cnf -key ca.key -days "$CA_DAYS" -out ca.crt
  rm -f ca.cnf
  chmod 644 ca.crt
  echo "$PWD/ca.crt"
}

broker() {
  [ $# -gt 0 ] || fail "name the hosts: certificates.sh FOLDER broker HOST..."
  names=""
  for host in "$@"; do
    case $host in
      *:*) kind=IP ;;       # IPv6
      *[!0-9.]*) kind=DNS ;;
      *) kind=IP ;;
    esac
    names="${names:+$names,}$kind:$host"
  done
  sign broker broker "extendedKeyUsage=serverAuth
subjectAltName=$names"
}

# The CN becomes user name, client id and a topic level, so only identifiers are signed.
login() {
  [ $# -gt 0 ] || fail "name the logins: certificates.sh FOLDER login NAME..."
  for name in "$@"; do
    case $name in
      *[!a-z0-9-]* | -* | *- | "") fail "'$name' is no identifier: use a-z, 0-9 and -" ;;
      ca | broker) fail "'$name' is the name of another file here" ;;
    esac
    [ "${#name}" -le 64 ] || fail "'$name' is longer than 64"
    sign "$name" "$name" "extendedKeyUsage=clientAuth"
  done
}

[ $# -ge 2 ] || fail "usage: certificates.sh FOLDER ca | broker HOST... | login NAME..."
mkdir -p "$1"
cd "$1"
command=$2
shift 2
case $command in
  ca) authority ;;
  broker) broker "$@" ;;
  login) login "$@" ;;
  *) fail "'$command' is none of ca, broker, login" ;;
esac
