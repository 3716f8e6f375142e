# shellcheck shell=bash
# free_port: a port of loopback without a listener.

free_port() {
  local port
  # Below the ephemeral ports.
  for port in $(shuf -i 20000-31999 -n 50); do
    if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
  echo "no free port among 50 from 20000 to 31999" >&2
  return 1
}
