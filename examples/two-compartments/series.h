// A parser of measurement series: the library that must not need execve.
#ifndef SERIES_H
#define SERIES_H

// series_report gets each finished reading: its name and its labels, a list that ends with NULL.
typedef int (*series_report)(const char *name, char *const labels[], void *user);

// series_read reads a file and reports what is in it. It returns the number of readings, or -1.
int series_read(const char *path, series_report report, void *user);

#endif
