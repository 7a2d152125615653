/* Subscribers of the feed bench: counts frames and how late they come, cheaply enough not to be what is measured.
 *
 * load <port> <file: a line with a path for each connection>; prints "ready" when each has been told tailrace.caught_up.
 * Then a byte on stdin: r forgets what was counted and answers "reset", p prints a line of JSON, end of file ends it.
 */
#include "wire.h"

enum { MAX_FDS = 65536, BUCKETS = 20000, BUCKET_NS = 50000 }; /* 50 us each, one second in all */

static struct {
  char part[16]; /* digits of a time at the end of the last read */
  int have;      /* how many; -1: no mark stands open */
} open_mark[MAX_FDS];
static uint64_t frames, bytes, late[BUCKETS + 1], most_ns;
static int lost;

static void count(const char *digits, uint64_t now) {
  uint64_t at = 0;
  for (int i = 0; i < 16; i++) at = at << 4 | (uint64_t)(digits[i] <= '9' ? digits[i] - '0' : digits[i] - 'a' + 10);
  uint64_t took = now > at ? now - at : 0, bucket = took / BUCKET_NS;
  late[bucket < BUCKETS ? bucket : BUCKETS]++;
  if (took > most_ns) most_ns = took;
  frames++;
}

static void take(int fd, const char *data, size_t size) {
  uint64_t now = now_ns();
  const char *at = data, *end = data + size;
  bytes += size;
  if (open_mark[fd].have >= 0) {
    int missing = 16 - open_mark[fd].have, there = size < (size_t)missing ? (int)size : missing;
    memcpy(open_mark[fd].part + open_mark[fd].have, at, (size_t)there);
    open_mark[fd].have += there;
    at += there;
    if (open_mark[fd].have < 16) return;
    count(open_mark[fd].part, now);
    open_mark[fd].have = -1;
  }
  while ((at = memchr(at, MARK, (size_t)(end - at)))) {
    at++;
    if (end - at < 16) {
      memcpy(open_mark[fd].part, at, (size_t)(end - at));
      open_mark[fd].have = (int)(end - at);
      return;
    }
    count(at, now);
    at += 16;
  }
}

static double quantile_ms(double q) {
  uint64_t wanted = (uint64_t)(q * (double)frames), seen = 0;
  for (int i = 0; i <= BUCKETS; i++)
    if ((seen += late[i]) > wanted) return (double)(i + 1) * BUCKET_NS / 1e6;
  return 0;
}

static int connect_to(int port, const char *path) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || fd >= MAX_FDS || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
  char head[1024];
  int n = snprintf(head, sizeof head, "GET %s HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n", path);
  write_all(fd, head, (size_t)n);
  return fd;
}

/* Reads until the stream says that it is caught up. */
static void await_live(int fd) {
  char head[65536];
  size_t size = 0;
  for (;;) {
    ssize_t n = read(fd, head + size, sizeof head - 1 - size);
    if (n <= 0) die("a stream ended before it was caught up");
    size += (size_t)n;
    head[size] = 0;
    if (strncmp(head, "HTTP/1.1 200", size < 12 ? size : 12)) {
      fprintf(stderr, "refused: %s\n", head);
      exit(1);
    }
    char *told = strstr(head, "event: tailrace.caught_up\n");
    if (told && strstr(told, "\n\n")) return;
  }
}

int main(int argument_count, char **arguments) {
  if (argument_count != 3) {
    fprintf(stderr, "load <port> <file of paths>\n");
    return 2;
  }
  FILE *file = fopen(arguments[2], "r");
  if (!file) die(arguments[2]);
  static int fds[MAX_FDS];
  int connections = 0, poller = epoll_create1(0);
  char path[512];
  int answered = 0;
  while (fscanf(file, "%511s", path) == 1) {
    fds[connections++] = connect_to(atoi(arguments[1]), path);
    if (connections - answered >= 64) await_live(fds[answered++]); /* no more than a listener's backlog takes */
  }
  while (answered < connections) await_live(fds[answered++]);
  struct epoll_event event = {.events = EPOLLIN};
  for (int i = 0; i < connections; i++) {
    never_blocks(fds[i]);
    open_mark[fds[i]].have = -1;
    event.data.fd = fds[i];
    epoll_ctl(poller, EPOLL_CTL_ADD, fds[i], &event);
  }
  event.data.fd = 0;
  if (epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event) < 0) die("stdin must be a pipe");
  puts("ready");
  fflush(stdout);
  static char buffer[1 << 18];
  for (;;) {
    struct epoll_event events[512];
    int n = epoll_wait(poller, events, 512, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      ssize_t got = read(fd, buffer, sizeof buffer);
      if (fd == 0) {
        if (got <= 0) return 0;
        if (buffer[0] == 'r') {
          frames = bytes = most_ns = 0;
          memset(late, 0, sizeof late);
          puts("reset");
        } else {
          printf("{\"frames\": %llu, \"bytes\": %llu, \"lost\": %d, \"p50_ms\": %.2f, \"p99_ms\": %.2f, \"max_ms\": %.2f}\n",
                 (unsigned long long)frames, (unsigned long long)bytes, lost, quantile_ms(0.5), quantile_ms(0.99),
                 (double)most_ns / 1e6);
        }
        fflush(stdout);
      } else if (got > 0) {
        take(fd, buffer, (size_t)got);
      } else if (got == 0 || errno != EAGAIN) {
        lost++;
        close(fd);
      }
    }
  }
}
