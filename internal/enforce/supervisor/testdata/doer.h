// What a library does for effects.c.
void do_unlink(const char *), do_rename(const char *, const char *), do_chmod(const char *, int), do_truncate(const char *);
void do_mkdir(const char *), do_sendto(int, void *, int), do_connect(int, void *, int), do_write(int);
int do_kill(int);
void do_execve(const char *, const char *);
