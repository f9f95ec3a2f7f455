/* What a task does with its volume in tests that disturb everything around it:
 *
 *   load VOLUME REPORT
 *
 * It appends numbered records to VOLUME/records, makes each durable, and reads all of them back after each, by a
 * descriptor that stays and by one that is opened anew; and beside it fio writes and verifies blocks in VOLUME/fio. The
 * first error of either ends both, and is a line of REPORT. What stays silent there has seen no error, no other file
 * system at its volume's path, and nothing missing, doubled or changed.
 *
 * Statically linked, so that it runs in any image and chroot; fio is beside it with its libraries and their loader.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RECORD = 64, PAUSE_MS = 40 };

static int report = -1;
static volatile sig_atomic_t told_to_end;

static void say(const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2) length = sizeof line - 2;
    line[length++] = '\n';
    if (write(report, line, length) != length) _exit(3);
    fsync(report);
}

#define FAIL(...) do { say("error: " __VA_ARGS__); exit(1); } while (0)

static void end(int signal) { (void)signal; told_to_end = 1; }

/* Every byte of a record follows from its number. */
static void make_record(char *record, unsigned long long number) {
    unsigned long long mix = number * 0x9e3779b97f4a7c15ULL;
    int length = snprintf(record, RECORD, "%016llu %016llx %016llx", number, mix, ~mix);
    memset(record + length, '.', RECORD - 1 - length);
    record[RECORD - 1] = '\n';
}

static void check(int file, const char *by, unsigned long long count) {
    struct stat found;
    if (fstat(file, &found)) FAIL("%s: stat: %s", by, strerror(errno));
    if ((unsigned long long)found.st_size != count * RECORD)
        FAIL("%s: %lld bytes in place of %llu records", by, (long long)found.st_size, count);
    char buffer[RECORD * 512], wanted[RECORD];
    unsigned long long number = 0;
    for (off_t at = 0; number < count;) {
        ssize_t got = pread(file, buffer, sizeof buffer, at);
        if (got < 0) FAIL("%s: read: %s", by, strerror(errno));
        if (got == 0 || got % RECORD) FAIL("%s: %zd bytes at %lld", by, got, (long long)at);
        for (ssize_t i = 0; i < got; i += RECORD, number++) {
            make_record(wanted, number);
            if (memcmp(buffer + i, wanted, RECORD)) FAIL("%s: record %llu is another", by, number);
        }
        at += got;
    }
}

static pid_t start_fio(char *program, const char *volume) {
    char home[4096], loader[4200], libraries[4200], fio[4200], directory[4200];
    snprintf(home, sizeof home, "%s", dirname(program));
    snprintf(loader, sizeof loader, "%s/ld.so", home);
    snprintf(libraries, sizeof libraries, "%s/lib", home);
    snprintf(fio, sizeof fio, "%s/fio", home);
    snprintf(directory, sizeof directory, "%s/fio.d", volume);
    if (mkdir(directory, 0777) && errno != EEXIST) FAIL("mkdir fio.d: %s", strerror(errno));
    char where[4300];
    snprintf(where, sizeof where, "--directory=%s", directory);
    pid_t child = fork();
    if (child < 0) FAIL("fork: %s", strerror(errno));
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGTERM, SIG_DFL);
        /* It says nothing before its end but errors. */
        dup2(report, 1);
        dup2(report, 2);
        /* Rounds without end: each writes every block once in random order, and reads and checks all. */
        execl(loader, loader, "--library-path", libraries, fio, "--minimal", "--name=load", where, "--thread",
              "--ioengine=psync", "--rw=randwrite", "--bs=4k", "--size=128k", "--fsync=8", "--rate_iops=60",
              "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", "--loops=1000000",
              (char *)NULL);
        say("error: no fio at %s: %s", loader, strerror(errno));
        _exit(1);
    }
    return child;
}

int main(int argc, char **argv) {
    if (argc != 3) return 64;
    report = open(argv[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (report < 0) return 73;
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    say("started");

    const char *volume = argv[1];
    char path[4200];
    snprintf(path, sizeof path, "%s/records", volume);
    int file = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0) FAIL("open records: %s", strerror(errno));
    struct stat first;
    if (fstat(file, &first)) FAIL("stat records: %s", strerror(errno));
    unsigned long long count = first.st_size / RECORD;
    check(file, "at the start", count);
    pid_t fio = start_fio(strdup(argv[0]), volume);

    while (!told_to_end) {
        char record[RECORD];
        make_record(record, count);
        ssize_t written = write(file, record, RECORD);
        if (written != RECORD) FAIL("write record %llu: %zd, %s", count, written, strerror(errno));
        if (fsync(file)) FAIL("fsync record %llu: %s", count, strerror(errno));
        count++;
        check(file, "the open file", count);
        int again = open(path, O_RDONLY | O_CLOEXEC);
        if (again < 0) FAIL("open again: %s", strerror(errno));
        struct stat now;
        if (fstat(again, &now)) FAIL("stat again: %s", strerror(errno));
        if (now.st_dev != first.st_dev || now.st_ino != first.st_ino) FAIL("another file is at the path now");
        check(again, "the file opened anew", count);
        if (close(again)) FAIL("close: %s", strerror(errno));
        int status;
        pid_t ended = waitpid(fio, &status, WNOHANG);
        if (ended < 0) FAIL("wait: %s", strerror(errno));
        if (ended == fio) FAIL("fio ended with status %x", status);
        struct timespec pause = {0, PAUSE_MS * 1000000L};
        nanosleep(&pause, NULL);
    }
    kill(fio, SIGKILL);
    waitpid(fio, NULL, 0);
    if (close(file)) FAIL("close records: %s", strerror(errno));
    say("ended");
    return 0;
}
