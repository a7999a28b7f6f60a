#!/bin/sh
# Makes the files in secrets/ that compose.yaml names; those that are there are left as they are.
# They are readable for every user inside the containers (each has its own), and on this machine for you alone, because
# of their directory.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 0700 secrets

make() {
    [ -e "secrets/$1" ] || printf '%s' "$2" > "secrets/$1"
    chmod 0444 "secrets/$1"
}

make postgres_password "$(openssl rand -hex 24)"
make store_url "postgresql://media_callbacks:$(cat secrets/postgres_password)@postgres/media_callbacks"
make admin_token "$(openssl rand -hex 32)"
make jobs_token "$(openssl rand -hex 32)"
make orders_secret "whsec_$(openssl rand -base64 32)"
# From the VOD console; until then callbacks are refused.
make vod_key "replace-me-$(openssl rand -hex 16)"
# The access key of a RAM user with ../ram-policy.json and no more; until then jobs are not asked about, nor queues read.
make aliyun_id "replace-me"
make aliyun_secret "replace-me"
