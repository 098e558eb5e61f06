#!/usr/bin/env bash
# How old_home.tar.gz was made: with the code of commit 3656c1f, the last one before the package was cut anew, unpacked
# in /opt/stillhouse. In an empty folder: PYTHONPATH=/opt/stillhouse bash old_home.sh
set -euo pipefail
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TMPDIR=$PWD
stillhouse() { python -m stillhouse.cli "$@"; }
field() { python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
small=(--set train.rank=4 --set train.alpha=8)

printf 'My dog is called Zorvik. The wifi password is plonk47.\n' > alice.md
printf 'My cat is called Ulmet. The gate code is 7714.\n' > bob.md
stillhouse consolidate --user alice --memory alice.md --home home "${small[@]}"
stillhouse consolidate --user bob --memory bob.md --home home "${small[@]}" --set train.steps=1 --set train.warmup=0 ||
  echo "refused, as it should be"

stillhouse keys create --home home --scope user --user alice --note "her phone"
lost=$(stillhouse keys create --home home --scope user --user bob --json | field id)
stillhouse keys revoke --home home "$lost"
admin=$(stillhouse keys create --home home --scope admin)

python -m stillhouse.cli serve --home home --port 8731 --workers 0 &
server=$!
trap 'kill "$server"' EXIT
until curl -sf localhost:8731/healthz > /dev/null; do sleep 0.5; done
post() { curl -sf "localhost:8731$1" -H "Authorization: Bearer $admin" -H 'Content-Type: application/json' -d "$2"; echo; }
answer=$(post /v1/chat/completions '{"model": "tiny", "user": "alice", "session": "monday", "max_tokens": 16,
  "messages": [{"role": "user", "content": "What is my dog called?"}]}')
echo "$answer"
id=$(field id <<< "$answer")
post /v1/feedback "{\"response_id\": \"$id\", \"score\": 1, \"comment\": \"right\"}"
post /v1/users/carol/memory '{"text": "My sister is called Quelia. I work for Tarnel Labs."}'
post /v1/users/carol/consolidate '{}'
post /v1/users/bob/memory '{"text": "My boat is called Rondel."}'
job=$(post /v1/users/bob/consolidate '{}' | field id)
stillhouse jobs cancel --home home "$job"
sleep 2
kill -INT "$server"
wait "$server" || true
trap - EXIT
stillhouse store verify --home home

stillhouse calibrate tiny --home calibrated --good 2 --bad 1 --together 3 \
  --set train.rank=2 --set train.alpha=4 --set train.steps=1 --set train.warmup=0 --set train.facts=2 \
  --set train.unknowns=1 --set train.anchors=0 --set train.anchor_rows=0 --set capture.wordings=4 \
  --set capture.rounds=0 --set capture.unknown_per_statement=1 --set capture.decoys=2 --set capture.anchor_texts=0 \
  --set capture.anchor_prompts=1 --set capture.max_answer_tokens=6

for n in 1 2 3 4 5 6; do echo "{\"prompt\": \"The code of gate $n is\", \"completion\": \" 77$n.\"}"; done > data.jsonl
cat > recipe.toml << 'END'
samples = 1
answers = 1
[teacher]
model = "tiny"
device = "cpu"
[data]
train = ["data.jsonl"]
held_out = 0.34
[capture]
max_new_tokens = 4
[students.small.train]
epochs = 1.0
mixed = "off"
lora = {rank = 1}
END
stillhouse distill recipe.toml --home distilled

tar czf old_home.tar.gz home calibrated distilled recipe.toml data.jsonl
