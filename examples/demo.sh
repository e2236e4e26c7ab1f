#!/usr/bin/env bash
# The main job from end to end on one machine: two ranks under FSDP2, stopped half-way and resumed.
# Everything it makes lies in .demo/. Run it with `make demo`.
set -euo pipefail

data=examples/conversations.jsonl
run=.demo/run
export GEMFIT_CACHE=.demo/cache
recipe=(debug/cpu-tiny --data "$data")
ranks=(--nproc 2 --strategy fsdp2)

show() {
    printf '\n$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

rm -rf .demo
mkdir .demo
show python examples/make_conversations.py "$data"
show gemfit pack "${recipe[@]}"
show gemfit plan "${recipe[@]}" "${ranks[@]}"

# A stopped run ends with status 75: it has saved, and can go on.
status=0
show gemfit run "${recipe[@]}" "${ranks[@]}" --run "$run" --stop-at 20 || status=$?
if [ "$status" -ne 75 ]; then
    echo "expected the run to stop with status 75, not $status" >&2
    exit 1
fi
show gemfit status "$run"
show gemfit data verify "$run"
show gemfit resume "$run"
show gemfit status "$run" --plot .demo/loss.png
show gemfit export "$run"
show gemfit chat "$run" --message "I cannot sleep before my exams." --max-new-tokens 60
show gemfit eval "$run" --samples 2 --max-new-tokens 40
show gemfit card "$run"
show gemfit report "$run"
printf '\nDone: the model is in %s/export, its card in %s/card, a page about the run in %s/report\n' "$run" "$run" "$run"
