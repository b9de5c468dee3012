// A file is a list of records: an operation, one byte, and what it needs.
//
//	n LEN TEXT   the name of the reading        l LEN TEXT   a label
//	d CH INT64   add a number to a channel      a CH CH      add a channel to another
//	s CH CH      subtract a channel             r            report the reading
//
// Channels hold what the deltas add up to.
#include "series.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHANNELS = 16, LABELS = 8 };

struct series {
	int64_t channel[CHANNELS];
	// What the owner of the series has chosen.
	void (*release)(void *);
	series_report report;
	void *user;
	char *name;
	char *labels[LABELS + 1];
	int label_count;
};

struct input {
	const uint8_t *at, *end;
};

static int take(struct input *in, void *to, size_t n)
{
	if ((size_t)(in->end - in->at) < n)
		return -1;
	memcpy(to, in->at, n);
	in->at += n;
	return 0;
}

static char *take_text(struct input *in)
{
	uint8_t length;
	if (take(in, &length, 1) < 0 || (size_t)(in->end - in->at) < length)
		return NULL;
	char *text = strndup((const char *)in->at, length);
	in->at += length;
	return text;
}

static int take_channel(struct series *s, struct input *in, int64_t **channel)
{
	uint8_t number;
	// The bug: sizeof counts bytes, so that 112 more "channels" pass. They are the fields behind the array, and the
	// operations below read and write them.
	if (take(in, &number, 1) < 0 || number >= sizeof s->channel)
		return -1;
	*channel = &s->channel[number];
	return 0;
}

static int record(struct series *s, struct input *in)
{
	uint8_t operation;
	int64_t *to, *from, delta;
	if (take(in, &operation, 1) < 0)
		return -1;
	switch (operation) {
	case 'n':
		s->release(s->name);
		return (s->name = take_text(in)) ? 0 : -1;
	case 'l':
		if (s->label_count == LABELS)
			return -1;
		return (s->labels[s->label_count++] = take_text(in)) ? 0 : -1;
	case 'd':
		if (take_channel(s, in, &to) < 0 || take(in, &delta, sizeof delta) < 0)
			return -1;
		*to += delta;
		return 0;
	case 'a':
	case 's':
		if (take_channel(s, in, &to) < 0 || take_channel(s, in, &from) < 0)
			return -1;
		*to += operation == 'a' ? *from : -*from;
		return 0;
	case 'r':
		if (s->report(s->name, s->labels, s->user) < 0)
			return -1;
		return 1;
	}
	return -1;
}

static uint8_t *slurp(const char *path, size_t *length)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	uint8_t *data = malloc(1 << 16);
	ssize_t n = data ? read(fd, data, 1 << 16) : -1;
	close(fd);
	if (n < 0) {
		free(data);
		return NULL;
	}
	*length = n;
	return data;
}

int series_read(const char *path, series_report report, void *user)
{
	size_t length;
	uint8_t *data = slurp(path, &length);
	if (!data)
		return -1;
	struct series *s = calloc(1, sizeof *s);
	if (!s) {
		free(data);
		return -1;
	}
	s->release = free;
	s->report = report;
	s->user = user;
	struct input in = {data, data + length};
	int readings = 0;
	while (readings >= 0 && in.at < in.end) {
		int n = record(s, &in);
		readings = n < 0 ? -1 : readings + n;
	}
	free(s->name);
	for (int i = 0; i < s->label_count; i++)
		free(s->labels[i]);
	free(s);
	free(data);
	return readings;
}
