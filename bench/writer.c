/* The floor of the feed bench: SSE in C, epoll, one write an event and subscriber.
 *
 * writer <socket of the server> <file: a line "run channel" for each run>; prints its port, then serves
 * GET /runs/<run>/events on loopback until it is killed. From the same messages it composes the same frames as the gateway,
 * each in a chunk of its own. No resuming, no feed, no limits but one of memory a subscriber.
 */
#include "wire.h"

enum { MAX_RUNS = 4096, MAX_FDS = 65536, MAX_PENDING = 256 * 1024, TABLE = 16384 };

typedef struct {
  char *name, *channel;
  int *fds, count, room;
} Run;

typedef struct {
  Run *run;
  char *pending; /* what the socket did not take */
  size_t size, room;
} Subscriber;

static Run runs[MAX_RUNS];
static int run_count;
static Run *by_channel[TABLE];
static Subscriber subscribers[MAX_FDS];
static int poller;

static unsigned hash(const char *text, size_t size) {
  unsigned h = 2166136261u;
  while (size--) h = (h ^ (unsigned char)*text++) * 16777619u;
  return h % TABLE;
}

static Run *find(const char *channel, size_t size) {
  for (unsigned at = hash(channel, size); by_channel[at]; at = (at + 1) % TABLE)
    if (!strncmp(by_channel[at]->channel, channel, size) && !by_channel[at]->channel[size]) return by_channel[at];
  return NULL;
}

static void read_runs(const char *path) {
  FILE *file = fopen(path, "r");
  char name[256], channel[512];
  if (!file) die(path);
  while (run_count < MAX_RUNS && fscanf(file, "%255s %511s", name, channel) == 2) {
    Run *run = &runs[run_count++];
    run->name = strdup(name);
    run->channel = strdup(channel);
    unsigned at = hash(channel, strlen(channel));
    while (by_channel[at]) at = (at + 1) % TABLE;
    by_channel[at] = run;
  }
  fclose(file);
}

static void leave(int fd) {
  Subscriber *subscriber = &subscribers[fd];
  Run *run = subscriber->run;
  for (int i = 0; run && i < run->count; i++)
    if (run->fds[i] == fd) run->fds[i] = run->fds[--run->count];
  free(subscriber->pending);
  memset(subscriber, 0, sizeof *subscriber);
  close(fd);
}

static void watch(int fd, uint32_t events) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
}

static void keep(int fd, const char *data, size_t size) {
  Subscriber *subscriber = &subscribers[fd];
  if (subscriber->size + size > MAX_PENDING) {
    leave(fd);
    return;
  }
  if (subscriber->size + size > subscriber->room) {
    subscriber->room = (subscriber->size + size) * 2;
    subscriber->pending = realloc(subscriber->pending, subscriber->room);
    if (!subscriber->pending) die("realloc");
  }
  memcpy(subscriber->pending + subscriber->size, data, size);
  subscriber->size += size;
  watch(fd, EPOLLIN | EPOLLOUT);
}

static void send_frame(int fd, const char *data, size_t size) {
  if (subscribers[fd].size) {
    keep(fd, data, size);
    return;
  }
  ssize_t n = write(fd, data, size);
  if (n == (ssize_t)size) return;
  if (n < 0 && errno != EAGAIN) {
    leave(fd);
    return;
  }
  if (n < 0) n = 0;
  keep(fd, data + n, size - (size_t)n);
}

static void send_pending(int fd) {
  Subscriber *subscriber = &subscribers[fd];
  ssize_t n = write(fd, subscriber->pending, subscriber->size);
  if (n < 0) return;
  subscriber->size -= (size_t)n;
  memmove(subscriber->pending, subscriber->pending + n, subscriber->size);
  if (!subscriber->size) watch(fd, EPOLLIN);
}

static void request(int fd) {
  char head[8192], name[256] = "";
  ssize_t n = read(fd, head, sizeof head - 1);
  if (n <= 0) {
    if (n == 0 || errno != EAGAIN) leave(fd);
    return;
  }
  head[n] = 0;
  if (subscribers[fd].run || sscanf(head, "GET /runs/%255[^/]/events", name) != 1) return;
  for (int i = 0; i < run_count; i++) {
    Run *run = &runs[i];
    if (strcmp(run->name, name)) continue;
    if (run->count == run->room) {
      run->room = run->room ? run->room * 2 : 1;
      run->fds = realloc(run->fds, (size_t)run->room * sizeof *run->fds);
      if (!run->fds) die("realloc");
    }
    run->fds[run->count++] = fd;
    subscribers[fd].run = run;
    static const char answer[] =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        "30\r\nevent: tailrace.caught_up\ndata: {\"cursor\":\"0\"}\n\n\r\n";
    send_frame(fd, answer, sizeof answer - 1);
    return;
  }
}

static void publish(Run *run, const char *body, size_t size) {
  static char frame[1 << 17];
  const char *end = body + size, *line = memchr(body, '\n', size);
  if (!line) return;
  unsigned long long seq = strtoull(body, NULL, 10);
  const char *ms = memchr(body, '-', (size_t)(line - body));
  if (!ms) return;
  int ms_size = (int)(line - ms - 1);
  for (; line < end; seq++) {
    const char *payload = line + 1;
    line = memchr(payload, '\n', (size_t)(end - payload));
    if (!line) line = end;
    int payload_size = (int)(line - payload);
    if (payload_size > (int)sizeof frame - 1024) die("a payload too long");
    char *at = frame + 8; /* room for the chunk's size */
    int n = sprintf(at, "id: %llu-%.*s\ndata: {\"id\":\"%llu-%.*s\",\"run\":\"%s\",", seq, ms_size, ms + 1, seq, ms_size, ms + 1,
                    run->name);
    memcpy(at + n, payload, (size_t)payload_size);
    n += payload_size;
    memcpy(at + n, "\n\n\r\n", 4);
    char size_line[16];
    int size_size = sprintf(size_line, "%x\r\n", n + 2);
    memcpy(at - size_size, size_line, (size_t)size_size);
    for (int i = run->count - 1; i >= 0; i--) send_frame(run->fds[i], at - size_size, (size_t)(n + 4 + size_size));
  }
}

/* One reply at the start of the buffer: three bulk strings of an smessage, or a confirmation. Returns its size, 0 if it is not whole. */
static size_t reply(const char *data, size_t size) {
  const char *at = data, *end = data + size, *parts[3];
  size_t sizes[3];
  if (size < 4) return 0;
  at += 4; /* "*3\r\n": nothing else is asked for */
  for (int i = 0; i < 3; i++) {
    const char *line = memchr(at, '\n', (size_t)(end - at));
    if (!line) return 0;
    if (*at == ':') {
      parts[i] = at;
      sizes[i] = 0;
      at = line + 1;
      continue;
    }
    size_t length = strtoull(at + 1, NULL, 10);
    if ((size_t)(end - line - 1) < length + 2) return 0;
    parts[i] = line + 1;
    sizes[i] = length;
    at = line + 1 + length + 2;
  }
  if (sizes[0] == 8 && !memcmp(parts[0], "smessage", 8)) {
    Run *run = find(parts[1], sizes[1]);
    if (run) publish(run, parts[2], sizes[2]);
  }
  return (size_t)(at - data);
}

static char inbox[1 << 20];
static size_t inbox_size;

static void receive(int server) {
  ssize_t n = read(server, inbox + inbox_size, sizeof inbox - inbox_size);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) die("the server closed");
  inbox_size += (size_t)n;
  size_t done = 0, used;
  while (done < inbox_size && (used = reply(inbox + done, inbox_size - done))) done += used;
  inbox_size -= done;
  memmove(inbox, inbox + done, inbox_size);
}

int main(int count, char **arguments) {
  if (count != 3) {
    fprintf(stderr, "writer <socket of the server> <file of runs>\n");
    return 2;
  }
  read_runs(arguments[2]);
  int server = connect_unix(arguments[1]);
  for (int i = 0; i < run_count; i++) {
    char command[1024];
    int n = sprintf(command, "*2\r\n$10\r\nSSUBSCRIBE\r\n$%zu\r\n%s\r\n", strlen(runs[i].channel), runs[i].channel);
    write_all(server, command, (size_t)n);
  }
  int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 4096) < 0) die("listen");
  getsockname(listener, (struct sockaddr *)&address, &size);
  poller = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = server};
  epoll_ctl(poller, EPOLL_CTL_ADD, server, &event);
  event.data.fd = listener;
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  for (;;) {
    struct epoll_event events[256];
    int n = epoll_wait(poller, events, 256, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd == server) {
        receive(server);
      } else if (fd == listener) {
        int fresh = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fresh < 0 || fresh >= MAX_FDS) continue;
        at_once(fresh);
        event.events = EPOLLIN;
        event.data.fd = fresh;
        epoll_ctl(poller, EPOLL_CTL_ADD, fresh, &event);
      } else {
        if (events[i].events & EPOLLOUT) send_pending(fd);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) request(fd);
      }
    }
  }
}
