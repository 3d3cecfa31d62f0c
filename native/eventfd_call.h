/*
 * Calls a driver by its eventfd, whatever its other holders do with it. eventfd_call.c says how.
 */
#ifndef WEFT_EVENTFD_CALL_H
#define WEFT_EVENTFD_CALL_H

/* Prepares this thread for calls; once or often. */
void eventfd_call_open(void);
/* Adds one to the counter; one that is full stays so. Never waits. */
void eventfd_call(int fd);

#endif
