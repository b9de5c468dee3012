// pad_left writes text into out, with blanks in front up to the width. It returns the length.
int pad_left(char *out, int size, const char *text, int width);
