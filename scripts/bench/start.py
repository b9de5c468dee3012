"""start.py PORT COMMAND...: milliseconds until the Redis that the command starts answers. It is shut down then."""
import socket
import subprocess
import sys
import time

begin = time.monotonic()
server = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while time.monotonic() < begin + 30:
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(16).startswith(b"+PONG"):
                print((time.monotonic() - begin) * 1000)
                connection.sendall(b"SHUTDOWN NOSAVE\r\n")
                break
    except OSError:
        time.sleep(0.002)
else:
    sys.exit("start.py: no answer")
server.wait()
