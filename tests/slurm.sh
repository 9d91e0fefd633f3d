#!/usr/bin/env bash
# slurm.sh COMMAND …: run a command beside a Slurm cluster of one node with two fake GPUs, which is this machine.
#
# A real controller and daemon, for as long as the command takes, 20 minutes at most. What is missing of Debian's or
# Ubuntu's packages is installed and removed again; configuration, keys, state and logs are in a temporary folder. Needs
# root, for the daemon starts jobs for others.
set -euo pipefail

if [ "$(id -u)" != 0 ]; then exec sudo --preserve-env=PATH,PYTHONPATH "$0" "$@"; fi
if [ -e /etc/slurm/slurm.conf ] || pgrep -x slurmd >/dev/null; then
  echo "error: Slurm is at work on this machine already" >&2
  exit 1
fi

here=$(mktemp -d /tmp/wtkit-slurm.XXXXXX)
chmod 755 "$here"
node=$(hostname -s)
daemons=()

leave() {
  local status=$?
  trap - EXIT
  if [ $status != 0 ]; then tail -n 20 "$here"/*.log >&2 || true; fi
  scancel --user root 2>/dev/null || true # what a test that failed left behind
  for _ in {1..60}; do
    if [ -z "$(squeue --noheader 2>/dev/null)" ]; then break; fi
    sleep 0.5
  done
  for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
    kill "${daemons[i]}" 2>/dev/null && wait "${daemons[i]}" 2>/dev/null || true
  done
  rm -rf "$here"
  if [ -n "${added:-}" ]; then
    # shellcheck disable=SC2086 # one word a package
    DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq $added >/dev/null
  fi
  exit $status
}
trap leave EXIT
trap 'exit 130' INT TERM

if ! { command -v slurmctld && command -v slurmd && command -v munged; } >/dev/null; then
  dpkg-query -W -f '${Package}\n' | sort >"$here/before"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >"$here/apt.log" 2>&1
  added=$(dpkg-query -W -f '${Package}\n' | sort | comm -13 "$here/before" -)
fi

dd if=/dev/urandom of="$here/munge.key" bs=128 count=1 status=none
chmod 400 "$here/munge.key"
mknod "$here/gpu0" c 1 3 # as /dev/null
mknod "$here/gpu1" c 1 3
mkdir "$here/state" "$here/spool" "$here/bin"
cat >"$here/gres.conf" <<END
AutoDetect=off
NodeName=$node Name=gpu File=$here/gpu[0-1] Flags=nvidia_gpu_env
END
cat >"$here/slurm.conf" <<END
ClusterName=wtkit
SlurmctldHost=$node
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
AuthInfo=socket=$here/munge.socket,cred_expire=5 # seconds that a requeued job waits
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.pid
SlurmctldLogFile=$here/slurmctld.log
SlurmdLogFile=$here/slurmd.log
ProctrackType=proctrack/linuxproc # no cgroups, which containers lack
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides # more processors and memory than there may be
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
ReturnToService=2
GresTypes=gpu
NodeName=$node CPUs=8 RealMemory=64000 Gres=gpu:2
PartitionName=low Nodes=$node Default=YES PriorityTier=1 GraceTime=20
PartitionName=high Nodes=$node PriorityTier=2
END
# Snakemake's plugin takes SLURM_CONF out of the environment in which it calls srun
printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$here/slurm.conf" "$(command -v srun)" >"$here/bin/srun"
chmod 755 "$here/bin/srun"
export SLURM_CONF="$here/slurm.conf" PATH="$here/bin:$PATH" WTKIT_TEST_SLURM=yes

munged --foreground --force --key-file="$here/munge.key" --socket="$here/munge.socket" --pid-file="$here/munge.pid" \
  --log-file="$here/munge.log" --seed-file="$here/munge.seed" &>/dev/null &
daemons+=($!)
slurmctld -D -c &>/dev/null &
daemons+=($!)
slurmd -D -c &>/dev/null &
daemons+=($!)
for _ in {1..60}; do
  if [ "$(sinfo --noheader --partition low --format %t 2>/dev/null)" = idle ]; then break; fi
  sleep 0.5
done

timeout --foreground 20m "$@"
