# logged FILE COMMAND …: show what the command prints and write it to the file; for bash with pipefail.
# SIGTERM, which ends a job, goes to all its processes: shell and tee wait until the command has written its checkpoint.
logged() {
  local log=$1 status=0
  shift
  trap : TERM
  "$@" 2>&1 | (trap '' INT TERM; exec tee "$log") || status=$?
  if [ "$status" = 137 ] && ! grep -q '(SIGKILL)' "$log"; then # the launcher reports which of several processes
    echo "wtkit: killed (SIGKILL), perhaps for lack of memory; the same command resumes from what was saved" | tee -a "$log"
  fi
  return "$status"
}
