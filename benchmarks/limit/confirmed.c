/* Publishes N small persistent messages with rabbitmq-c, at most WINDOW of them unconfirmed, and waits for every confirm:
 * what a C client reaches on this broker.   confirmed HOST PORT USER PASSWORD VHOST QUEUE N
 * Prints one JSON object. Build: cc -O2 -o confirmed confirmed.c -lrabbitmq */
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

enum { WINDOW = 1000 };

static const char *BODY = "{\"args\": [], \"kwargs\": {}, \"id\": \"0f8fad5b-d9cb-469f-a165-70867728950e\", \"task\": \"noop\"}";

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static double used(void) {
  struct rusage r;
  getrusage(RUSAGE_SELF, &r);
  return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static void need(int fine, const char *what) {
  if (fine) return;
  fprintf(stderr, "%s failed\n", what);
  exit(1);
}

static int answered(amqp_connection_state_t c) { return amqp_get_rpc_reply(c).reply_type == AMQP_RESPONSE_NORMAL; }

int main(int count, char **word) {
  if (count != 8) {
    fprintf(stderr, "use: %s HOST PORT USER PASSWORD VHOST QUEUE N\n", word[0]);
    return 64;
  }
  long n = atol(word[7]), sent = 0, confirmed = 0;
  amqp_connection_state_t c = amqp_new_connection();
  amqp_socket_t *s = amqp_tcp_socket_new(c);
  need(!amqp_socket_open(s, word[1], atoi(word[2])), "connecting");
  need(amqp_login(c, word[5], 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, word[3], word[4]).reply_type == AMQP_RESPONSE_NORMAL, "the login");
  amqp_channel_open(c, 1);
  need(answered(c), "opening a channel");
  amqp_confirm_select(c, 1);
  need(answered(c), "asking for confirms");

  amqp_basic_properties_t p;
  memset(&p, 0, sizeof p);
  p._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TYPE_FLAG;
  p.content_type = amqp_cstring_bytes("application/json");
  p.delivery_mode = 2;
  p.message_id = amqp_cstring_bytes("0f8fad5b-d9cb-469f-a165-70867728950e");
  p.type = amqp_cstring_bytes("noop");
  amqp_bytes_t body = amqp_cstring_bytes(BODY), key = amqp_cstring_bytes(word[6]);

  char *done = calloc(n + 2, 1); /* confirms may come out of order */
  need(done != NULL, "taking memory");
  double cpu = used(), start = now();
  while (confirmed < n) {
    for (; sent < n && sent - confirmed < WINDOW; sent++)
      need(!amqp_basic_publish(c, 1, amqp_empty_bytes, key, 0, 0, &p, body), "publishing");
    amqp_frame_t f;
    struct timeval patience = {10, 0};
    need(amqp_simple_wait_frame_noblock(c, &f, &patience) == AMQP_STATUS_OK, "waiting for a confirm");
    need(f.frame_type == AMQP_FRAME_METHOD && f.payload.method.id == AMQP_BASIC_ACK_METHOD, "being confirmed");
    amqp_basic_ack_t *ack = f.payload.method.decoded;
    long tag = ack->delivery_tag;
    need(tag <= sent, "being confirmed in order");
    for (long one = ack->multiple ? confirmed + 1 : tag; one <= tag; one++) done[one] = 1;
    while (confirmed < n && done[confirmed + 1]) confirmed++;
    amqp_maybe_release_buffers(c);
  }
  double seconds = now() - start;
  printf("{\"rate\": %.1f, \"client_us\": %.2f}\n", n / seconds, (used() - cpu) / n * 1e6);
  amqp_connection_close(c, AMQP_REPLY_SUCCESS);
  return 0;
}
