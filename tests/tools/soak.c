/* What a task does with its volumes in the soak:
 *
 *   soak PORT PAUSE_MS SECONDS STATUS VOLUME...
 *
 * In each of its volumes (NOMAD_TASK_DIR/VOLUME) it has a file of its own, named after its allocation and task. Again
 * and again, with a pause after each, it writes the next numbered record of a volume's file, makes it durable, reads it
 * back, and only then says so to the witness, which listens at PORT of the loopback. Each time the file is opened anew:
 * a file that is open when its mount program dies is lost, and that is no news. What a call answers other than by
 * success is told with the time at which the round began and ended, and the same record is tried again.
 *
 * A record stands where its number says, and every byte of it follows from that number and the file's name; so writing
 * one twice changes nothing, and a record of another file is told from the right one. After SECONDS, if not 0, it ends
 * with STATUS; when it is told to end, with 0.
 *
 * Statically linked, so that it runs in any image and chroot, and without a shell: hundreds of it must cost little.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { RECORD = 64, MOST_VOLUMES = 16 };

struct volume {
    const char *name;
    char path[4200];
    unsigned long long identity;
    /* Records that are known to be whole: those that it acknowledged, and at its start those that it found. */
    unsigned long long count;
    bool is_known;
};

static int witness = -1;
static volatile sig_atomic_t told_to_end;

static void end(int signal) { (void)signal; told_to_end = 1; }

static void say(const char *format, ...) {
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2) length = sizeof line - 2;
    line[length++] = '\n';
    for (int at = 0; at < length;) {
        ssize_t sent = send(witness, line + at, length - at, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        /* Nobody is left to whom it matters. */
        if (sent < 0) _exit(70);
        at += sent;
    }
}

/* The clock that all processes of the host share, in milliseconds. */
static unsigned long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000ULL + time.tv_nsec / 1000000;
}

/* FNV-1a. */
static unsigned long long hash(const char *text) {
    unsigned long long sum = 0xcbf29ce484222325ULL;
    for (; *text; text++) sum = (sum ^ (unsigned char)*text) * 0x100000001b3ULL;
    return sum;
}

static void make_record(char *record, unsigned long long identity, unsigned long long number) {
    unsigned long long mix = (number + 1) * 0x9e3779b97f4a7c15ULL ^ identity;
    int length = snprintf(record, RECORD, "%016llu %016llx %016llx", number, mix, ~mix);
    memset(record + length, '.', RECORD - 1 - length);
    record[RECORD - 1] = '\n';
}

/* What the task can say of a call that failed; the witness knows whether it may have. */
static void fault(struct volume *volume, unsigned long long began, const char *call) {
    int why = errno;
    /* Whoever is told to end is interrupted, also within a call that waits for a server. */
    if (told_to_end && why == EINTR) return;
    say("fault %s %llu %llu %llu %s: %s", volume->name, volume->count, began, now(), call, strerror(why));
}

#define WRONG(volume, format, ...) \
    say("wrong %s %llu %llu %llu " format, (volume)->name, (volume)->count, began, now(), __VA_ARGS__)

/* Counts the whole records that its file has, and makes them durable; false where a call failed. */
static bool find_records(struct volume *volume, int file, unsigned long long began, off_t size) {
    char found[RECORD], wanted[RECORD];
    unsigned long long number = 0;
    for (; (off_t)((number + 1) * RECORD) <= size; number++) {
        ssize_t got = pread(file, found, RECORD, number * RECORD);
        if (got < 0) return fault(volume, began, "read of what was there"), false;
        make_record(wanted, volume->identity, number);
        if (got == RECORD && !memcmp(found, wanted, RECORD)) continue;
        /* The last one may never have been acknowledged: the witness knows. */
        if ((off_t)((number + 1) * RECORD) < size) WRONG(volume, "record %llu is another at the start", number);
        break;
    }
    if (fsync(file)) return fault(volume, began, "fsync of what was there"), false;
    volume->count = number;
    volume->is_known = true;
    say("found %s %llu", volume->name, number);
    return true;
}

static void write_one(struct volume *volume) {
    unsigned long long began = now();
    int file = open(volume->path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0) return fault(volume, began, "open");
    struct stat status;
    char record[RECORD], found[RECORD];
    if (fstat(file, &status)) {
        fault(volume, began, "stat");
        goto out;
    }
    if (!volume->is_known && !find_records(volume, file, began, status.st_size)) goto out;
    if (status.st_size < (off_t)(volume->count * RECORD))
        WRONG(volume, "%lld bytes, device %llu, in place of %llu records", (long long)status.st_size,
              (unsigned long long)status.st_dev, volume->count);
    make_record(record, volume->identity, volume->count);
    ssize_t written = pwrite(file, record, RECORD, volume->count * RECORD);
    if (written != RECORD) {
        if (written >= 0) errno = ENOSPC;
        fault(volume, began, "write");
        goto out;
    }
    if (fsync(file)) {
        fault(volume, began, "fsync");
        goto out;
    }
    unsigned long long durable = now();
    ssize_t got = pread(file, found, RECORD, volume->count * RECORD);
    if (got < 0) {
        fault(volume, began, "read");
    } else if (got != RECORD || memcmp(found, record, RECORD)) {
        WRONG(volume, "%zd bytes are read of what was written", got);
    }
    /* By a completed fsync alone. */
    say("kept %s %llu %llu %llu", volume->name, volume->count, began, durable);
    volume->count++;
out:
    if (close(file)) fault(volume, began, "close");
}

/* The witness says nothing; the end of what it says is that the task is to go. */
static bool is_sent_away(void) {
    char byte;
    return recv(witness, &byte, 1, MSG_DONTWAIT) == 0;
}

static void connect_to_witness(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    witness = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (witness < 0 || connect(witness, (struct sockaddr *)&address, sizeof address)) exit(71);
}

static const char *variable(const char *name) {
    const char *value = getenv(name);
    if (!value) exit(64);
    return value;
}

int main(int argc, char **argv) {
    if (argc < 6 || argc - 5 > MOST_VOLUMES) return 64;
    int count = argc - 5;
    long pause = atol(argv[2]), seconds = atol(argv[3]);
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    connect_to_witness(atoi(argv[1]));
    const char *alloc = variable("NOMAD_ALLOC_ID"), *task = variable("NOMAD_TASK_NAME");
    say("hello %s %s %s", variable("NOMAD_JOB_ID"), alloc, task);

    static struct volume volumes[MOST_VOLUMES];
    for (int i = 0; i < count; i++) {
        struct volume *volume = &volumes[i];
        char identity[512];
        volume->name = argv[5 + i];
        snprintf(volume->path, sizeof volume->path, "%s/%s/%s.%s", variable("NOMAD_TASK_DIR"), volume->name, alloc, task);
        snprintf(identity, sizeof identity, "%s/%s.%s", volume->name, alloc, task);
        volume->identity = hash(identity);
    }
    unsigned long long last = seconds ? now() + seconds * 1000ULL : ~0ULL;
    struct timespec rest = {pause / 1000, pause % 1000 * 1000000L};
    for (int i = 0; !told_to_end; i = (i + 1) % count) {
        if (now() >= last) {
            say("ended");
            return atoi(argv[4]);
        }
        if (is_sent_away()) return 70;
        write_one(&volumes[i]);
        if (!told_to_end) nanosleep(&rest, NULL);
    }
    say("told to end");
    return 0;
}
