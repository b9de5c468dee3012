"""start.py PORT COMMAND...: milliseconds until the Redis that the command starts answers. It is shut down then."""
import socket
import subprocess
import sys
import time


def answer(port):
    """The connection on which the server has answered; None: it does not yet."""
    try:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(b"PING\r\n")
        return connection if connection.recv(16).startswith(b"+PONG") else None
    except OSError:
        return None


begin = time.monotonic()
server = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while not (connection := answer(int(sys.argv[1]))):
    if time.monotonic() > begin + 30:
        sys.exit("start.py: no answer")
    time.sleep(0.002)
print((time.monotonic() - begin) * 1000)
connection.sendall(b"SHUTDOWN NOSAVE\r\n")
server.wait()
