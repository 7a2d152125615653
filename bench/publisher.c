/* Events for the feed bench at an even pace, in turn to each run, as the server publishes them after an append.
 *
 * publisher <socket of the server> <file: a line "channel feed hash" for each run> <events a second> <how many> <first seq>
 *   <size of a payload> <1: feed and hash as well, as append.lua leaves them>
 * Prints for how many seconds it published, and how far behind its pace it was at most.
 */
#include "wire.h"

enum { MAX_RUNS = 4096, AT_ONCE = 64 };

static char *channels[MAX_RUNS], *feeds[MAX_RUNS], *hashes[MAX_RUNS];
static char outbox[1 << 20];
static size_t used;

static void put(const char *text, size_t size) {
  memcpy(outbox + used, text, size);
  used += size;
}

static void bulk(const char *text, size_t size) {
  used += (size_t)sprintf(outbox + used, "$%zu\r\n", size);
  put(text, size);
  put("\r\n", 2);
}

static void command(int count, const char *name) {
  used += (size_t)sprintf(outbox + used, "*%d\r\n", count);
  bulk(name, strlen(name));
}

static void one(int run, unsigned long long seq, uint64_t published, int size, int whole) {
  static char payload[1 << 16], body[(1 << 16) + 64];
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  char id[48];
  int id_size = sprintf(id, "%llu-%llu", seq, (unsigned long long)t.tv_sec * 1000 + (unsigned long long)t.tv_nsec / 1000000);
  int n = sprintf(payload, "\"type\":\"message.delta\",\"data\":{\"text\":\"%c%016llx", MARK, (unsigned long long)published);
  while (n < size - 3) payload[n++] = ' ';
  n += sprintf(payload + n, "\"}}");
  if (whole) {
    command(6, "XADD");
    bulk(feeds[run], strlen(feeds[run]));
    bulk("NOMKSTREAM", 10);
    bulk(id, (size_t)id_size);
    bulk("e", 1);
    bulk(payload, (size_t)n);
    command(4, "HSET");
    bulk(hashes[run], strlen(hashes[run]));
    bulk("tail", 4);
    bulk(id, (size_t)id_size);
  }
  int body_size = sprintf(body, "%s\n", id);
  memcpy(body + body_size, payload, (size_t)n);
  command(3, "SPUBLISH");
  bulk(channels[run], strlen(channels[run]));
  bulk(body, (size_t)(body_size + n));
}

static void wait_until(uint64_t at) {
  struct timespec t = {.tv_sec = (time_t)(at / 1000000000u), .tv_nsec = (long)(at % 1000000000u)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {}
}

int main(int count, char **arguments) {
  if (count != 8) {
    fprintf(stderr, "publisher <socket> <file of channels, feeds and hashes> <events a second> <events> <first seq> <size> <whole>\n");
    return 2;
  }
  FILE *file = fopen(arguments[2], "r");
  char channel[512], feed[512], hash[512];
  int runs = 0;
  if (!file) die(arguments[2]);
  while (runs < MAX_RUNS && fscanf(file, "%511s %511s %511s", channel, feed, hash) == 3) {
    channels[runs] = strdup(channel);
    feeds[runs] = strdup(feed);
    hashes[runs++] = strdup(hash);
  }
  double rate = atof(arguments[3]);
  long events = atol(arguments[4]);
  unsigned long long first = strtoull(arguments[5], NULL, 10);
  int size = atoi(arguments[6]), whole = atoi(arguments[7]);
  int server = connect_unix(arguments[1]);
  command(3, "CLIENT");
  bulk("REPLY", 5);
  bulk("OFF", 3);
  write_all(server, outbox, used);
  used = 0;
  uint64_t begin = now_ns(), behind = 0;
  for (long sent = 0; sent < events;) {
    uint64_t now = now_ns(), due = begin + (uint64_t)((double)sent / rate * 1e9);
    if (due > now) {
      wait_until(due > now + 100000 ? due : now + 100000);
      continue;
    }
    if (now - due > behind) behind = now - due;
    for (int i = 0; i < AT_ONCE && sent < events; i++, sent++) {
      if (begin + (uint64_t)((double)sent / rate * 1e9) > now) break;
      one((int)(sent % runs), first + (unsigned long long)(sent / runs), now, size, whole);
    }
    write_all(server, outbox, used);
    used = 0;
  }
  printf("{\"seconds\": %.6f, \"behind_ms\": %.2f}\n", (double)(now_ns() - begin) / 1e9, (double)behind / 1e6);
  return 0;
}
