#!/bin/sh
# Run the worker in a rented GPU's container, and end what bills when the worker has left.
#
# In a pod that `comfy-gpu-offload up` made this is the container's command: rental/start_script.py puts the assignments
# of the names below in front of it. In the project's image it is the default command, with the values below.
#
# The container is started again whenever its command ends, so ending saves nothing: the pod has to be deleted. This
# script does so when the worker has left (idle, or at its hard limit), when it cannot be installed, crashes again and
# again, or is still there after the hard limit. It ends itself only where there is no pod to delete.
set -u

: "${START_INSTALL:=no}"             # yes: a stock image, in which pack and ComfyUI are installed first
: "${START_BACKEND:=comfyui}"        # with START_INSTALL=yes: comfyui or diffusers
: "${START_PACK:=}"                  # what pip installs the pack by
: "${START_PACK_ELSE:=}"             # and where that fails
: "${START_COMFYUI:=}"               # ComfyUI's release, such as 0.33.0
: "${START_COMFYUI_REPOSITORY:=https://github.com/Comfy-Org/ComfyUI}"
: "${START_WORKER_OPTIONS:=}"        # further options of the worker, separated by spaces
: "${START_FOLDER:=${HOME:-/root}/comfy-gpu-offload}"
: "${START_VOLUME:=/workspace}"      # where a network volume is mounted, if there is one
: "${START_PORT:=8288}"
: "${START_INSTALL_S:=3600}"          # for each step of the installation
: "${START_CRASHES:=3}"              # crashes in a row after which the pod is deleted
: "${START_PAUSE_S:=5}"              # before a crashed worker is started again
: "${START_GRACE_S:=660}"            # for a worker that should have left at its hard limit; its own grace is 600
: "${START_KILL_S:=30}"              # from SIGTERM to SIGKILL
: "${START_GONE_S:=60}"              # for an accepted deletion to end this container
: "${START_AGAIN_S:=300}"            # until all ways to delete the pod are tried again
: "${START_API:=https://api.runpod.io/v2}"
: "${START_GRAPHQL:=https://api.runpod.io/graphql}"

HEALTHY_S=600                        # a worker that lived for so long has not crashed at its start

# An endpoint's worker belongs to its endpoint, and a worker without limits to whoever started it: nothing to end then.
if [ "$START_INSTALL" = no ]; then
    if [ -n "${RUNPOD_ENDPOINT_ID:-}" ] ||
        [ "${COMFY_GPU_OFFLOAD_IDLE_EXIT_MINUTES:-0} ${COMFY_GPU_OFFLOAD_AT_MOST_MINUTES:-0}" = '0 0' ]; then
        exec python -m worker
    fi
fi

# Secrets go to what needs them and to nothing else: an installation runs the code of a hundred packages.
pod_key=${RUNPOD_API_KEY:-} token=${COMFY_GPU_OFFLOAD_TOKEN:-}
unset RUNPOD_API_KEY COMFY_GPU_OFFLOAD_TOKEN HF_TOKEN CIVITAI_TOKEN

child='' stopped=''
trap 'stopped=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT

log() {
    echo "comfy-gpu-offload start: $*"
}

# Set `now`: seconds of a clock that nobody sets.
look_at_clock() {
    read -r now _ </proc/uptime
    now=${now%%.*}
}

# Run a command and return its status, in a process of its own so that signals are not kept waiting.
run() {
    ("$@") &
    child=$!
    while :; do
        wait "$child"
        status=$?
        kill -0 "$child" 2>/dev/null || break # else a signal ended the wait, not the child
    done
    child=''
    if [ -n "$stopped" ]; then
        log 'stopped by a signal; the pod is left to whoever sent it'
        exit 143
    fi
    return "$status"
}

# Set `left_s`: seconds until the hard limit, negative past it; empty without one.
measure_left() {
    left_s=''
    if [ "$limit_s" -gt 0 ]; then
        look_at_clock
        left_s=$((began_s + limit_s - now))
    fi
}

is_overdue() {
    measure_left
    [ -n "$left_s" ] && [ $((left_s + START_GRACE_S)) -le 0 ]
}

# Become a command that ends after the hard limit and the worker's grace, or after `most_s` seconds if that is set and
# sooner.
within_limit() {
    measure_left
    if [ -n "$left_s" ]; then
        left_s=$((left_s + START_GRACE_S))
        [ "$left_s" -gt 0 ] || exit 124
        [ -n "$most_s" ] && [ "$most_s" -lt "$left_s" ] || most_s=$left_s
    fi
    exec timeout --kill-after="$START_KILL_S" "${most_s:-0}" "$@" # 0: without a limit
}

read_limit() {
    limit_s=$(awk -v minutes="${COMFY_GPU_OFFLOAD_AT_MOST_MINUTES:-0}" 'BEGIN { printf "%d", minutes * 60 }')
    look_at_clock
    began_s=$now
    # A container that is started again goes on counting, unless the machine was started again too.
    if [ -f "$START_FOLDER/began" ] && read -r earlier <"$START_FOLDER/began" && [ "$earlier" -le "$now" ]; then
        began_s=$earlier
    else
        mkdir -p "$START_FOLDER" && echo "$began_s" >"$START_FOLDER/began"
    fi
}

# Write what pip has to heed: constraints that keep the image's torch, which fits its CUDA, from being replaced, and the
# index with the same build of what belongs to it, where the image lacks that: PyPI's may be for another CUDA.
heed_torch() {
    exec "$python" -c '
import sys
from importlib.metadata import PackageNotFoundError, version

folder, found = sys.argv[1], {}
for name in ("torch", "torchvision", "torchaudio"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
build = found.get("torch", "").partition("+")[2]
index = "--extra-index-url https://download.pytorch.org/whl/" + build if build and len(found) < 3 else ""
with open(folder + "/torch.txt", "w") as constraints, open(folder + "/index.txt", "w") as options:
    print(*(name + "==" + found[name] for name in found), sep="\n", file=constraints)
    print(index, file=options)
' "$START_FOLDER"
}

get_comfyui() {
    [ ! -d "$comfyui" ] || return 0
    log "getting ComfyUI $START_COMFYUI"
    rm -rf "$comfyui.part"
    run within_limit git -c advice.detachedHead=false clone --quiet --depth 1 --branch "v$START_COMFYUI" \
        -- "$START_COMFYUI_REPOSITORY" "$comfyui.part" || return
    # Its page, templates and documentation are hundreds of MB that no worker reads.
    grep -v '^comfyui-' "$comfyui.part/requirements.txt" >"$START_FOLDER/comfyui.txt" || return
    mv "$comfyui.part" "$comfyui"
}

pip_install() {
    set -- --requirement "$START_FOLDER/pack.txt"
    [ "$START_BACKEND" != comfyui ] || set -- "$@" --requirement "$START_FOLDER/comfyui.txt"
    run within_limit "$python" -m pip --disable-pip-version-check install --quiet --progress-bar off \
        --requirement "$START_FOLDER/index.txt" --constraint "$START_FOLDER/torch.txt" "$@"
}

install() {
    [ ! -f "$START_FOLDER/installed" ] || return 0
    if [ ! -x "$python" ]; then
        run within_limit python3 -m venv --system-site-packages --without-pip "$START_FOLDER/venv" || return
    fi
    run heed_torch || return
    if [ "$START_BACKEND" = comfyui ]; then
        get_comfyui || return
    fi
    for requirement in "$START_PACK" "$START_PACK_ELSE"; do
        [ -n "$requirement" ] || continue
        log "installing $requirement"
        echo "$requirement" >"$START_FOLDER/pack.txt"
        if pip_install; then
            : >"$START_FOLDER/installed"
            return 0
        fi
    done
    return 1
}

# Become the worker.
worker() {
    [ -z "$token" ] || export COMFY_GPU_OFFLOAD_TOKEN="$token"
    measure_left
    if [ -n "$left_s" ]; then # counted from the container's start, not from this worker's
        [ "$left_s" -gt 0 ] || left_s=1
        COMFY_GPU_OFFLOAD_AT_MOST_MINUTES=$(awk -v s="$left_s" 'BEGIN { printf "%.3f", s / 60 }')
        export COMFY_GPU_OFFLOAD_AT_MOST_MINUTES
    fi
    if [ "$START_INSTALL" = no ]; then
        export COMFY_GPU_OFFLOAD_SERVE=http
        within_limit python -m worker
    fi
    models=$START_FOLDER/models
    [ ! -d "$START_VOLUME" ] || models=$START_VOLUME/models
    mkdir -p "$models" || exit
    set -- --backend "$START_BACKEND" --models "$models" --host 0.0.0.0 --port "$START_PORT"
    [ "$START_BACKEND" != comfyui ] || set -- "$@" --comfyui "$comfyui"
    # shellcheck disable=SC2086 # several options
    within_limit "$START_FOLDER/venv/bin/comfy-gpu-offload" worker "$@" $START_WORKER_OPTIONS
}

# Run the worker until it leaves or cannot go on, and set `why`.
supervise() {
    crashes=0
    while :; do
        look_at_clock
        started_s=$now
        run worker
        status=$?
        look_at_clock
        if [ "$status" -eq 0 ]; then
            why='the worker has left'
            return
        elif is_overdue; then
            why='the hard limit is over'
            return
        elif [ "$status" -eq 2 ]; then
            why='the worker cannot start with these settings'
            return
        fi
        [ $((now - started_s)) -lt "$HEALTHY_S" ] || crashes=0
        crashes=$((crashes + 1))
        if [ "$crashes" -ge "$START_CRASHES" ]; then
            why="the worker crashed $crashes times"
            return
        fi
        log "the worker ended with status $status and is started again"
        run sleep "$START_PAUSE_S"
    done
}

# Ask RunPod's API: method, address and, where there is one, body. The key goes to that address alone: a redirect is
# a failure.
ask_runpod() {
    RUNPOD_API_KEY=$pod_key timeout --kill-after=5 90 python3 -c '
import json, os, sys, urllib.request

class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None

method, address, *body = sys.argv[1:]
headers = {"Authorization": "Bearer " + os.environ["RUNPOD_API_KEY"], "User-Agent": "comfy-gpu-offload"}
if body:
    headers["Content-Type"] = "application/json"
request = urllib.request.Request(address, body[0].encode() if body else None, headers, method=method)
try:
    with urllib.request.build_opener(NoRedirect).open(request, timeout=30) as reply:
        text = reply.read(65536)
    failed = bool(body) and (json.loads(text).get("errors") or "data" not in json.loads(text))
except (OSError, ValueError, AttributeError) as error:
    sys.exit("%s: %s" % (address, getattr(error, "code", type(error).__name__)))
sys.exit("%s: refused" % address if failed else 0)
' "$@"
}

delete_by_rest() {
    ask_runpod DELETE "$START_API/pods/$RUNPOD_POD_ID"
}

delete_by_graphql() {
    ask_runpod POST "$START_GRAPHQL" \
        "{\"query\": \"mutation { podTerminate(input: {podId: \\\"$RUNPOD_POD_ID\\\"}) }\"}"
}

# Its words differ between releases. A pod that is only stopped still bills its disk, but not its GPU.
delete_by_runpodctl() {
    for words in 'pod delete' 'remove pod' 'pod stop' 'stop pod'; do
        # shellcheck disable=SC2086 # two words
        RUNPOD_API_KEY=$pod_key timeout --kill-after=5 60 runpodctl $words "$RUNPOD_POD_ID" >/dev/null 2>&1 &&
            return
    done
}

# Delete this pod, whatever it takes. Does not return.
end_pod() {
    log "$1"
    case ${RUNPOD_POD_ID:-} in
    '' | *[!A-Za-z0-9_-]*)
        log 'this is no pod of RunPod: there is nothing to delete'
        exit "$2"
        ;;
    esac
    while :; do
        for way in delete_by_rest delete_by_graphql delete_by_runpodctl; do
            if run "$way"; then
                log "deleting pod $RUNPOD_POD_ID: $way was accepted"
                run sleep "$START_GONE_S"
            fi
            log "deleting pod $RUNPOD_POD_ID: $way did not end it"
        done
        log "POD $RUNPOD_POD_ID STILL BILLS: delete it in RunPod's console. Trying again in $START_AGAIN_S s."
        run sleep "$START_AGAIN_S"
    done
}

python=$START_FOLDER/venv/bin/python comfyui=$START_FOLDER/ComfyUI
read_limit
if [ "$START_INSTALL" = yes ]; then
    most_s=$START_INSTALL_S
    install || end_pod 'the worker could not be installed' 1
fi
most_s=''
log 'starting the worker'
supervise
end_pod "$why" "$status"
