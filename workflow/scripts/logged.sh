# logged FILE COMMAND …: show what the command prints and keep it in the file; for bash with pipefail.
# What ends a job, SIGTERM, goes to all its processes: shell and tee stay until the command has written its checkpoint.
logged() {
  local log=$1 status=0
  shift
  trap : TERM
  "$@" 2>&1 | (trap '' INT TERM; exec tee "$log") || status=$?
  if [ "$status" = 137 ] && ! grep -q '(SIGKILL)' "$log"; then # of several processes the launcher has said which
    echo "wtkit: killed (SIGKILL), perhaps for want of memory; the same command goes on from what was saved" | tee -a "$log"
  fi
  return "$status"
}
