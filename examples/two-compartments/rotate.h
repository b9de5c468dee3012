// Log rotation: the library that does need execve.
#ifndef ROTATE_H
#define ROTATE_H

// rotate_log renames a log to PATH.1 and runs a shell command after that. It returns 0, or -1 if either fails.
int rotate_log(const char *path, const char *hook);

#endif
