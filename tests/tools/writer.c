/* The writers of the workloads that have no server:
 *
 *   writer wal|rollback|log VOLUME NOTES REPORT
 *
 * `wal` and `rollback` torture a SQLite database, VOLUME/torture.db, with that journal: three processes write to it at
 * once, and two look at it. `log` keeps an append-only log as Loki's ingester does: records go to a segment, which is
 * made durable with each batch; a full segment becomes a chunk (written beside, made durable, renamed), and goes.
 *
 * What a commit or an fsync has acknowledged is noted in NOTES, which lies outside of the volume, after it was
 * acknowledged and by one write. The program is meant to be killed. When it starts it first proves that what the notes
 * say is there, and that the rest is whole, and says so in one line of REPORT; the first thing that is not as it must be
 * is a line that begins with "error", and the end.
 *
 * Every byte of a row and of a record follows from its writer and its number.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Of sqlite3.h, whose package would bring a compiler's headers along; SQLite promises never to change these. */
typedef struct sqlite3 sqlite3;
typedef struct sqlite3_stmt sqlite3_stmt;
int sqlite3_open(const char *, sqlite3 **);
int sqlite3_exec(sqlite3 *, const char *, int (*)(void *, int, char **, char **), void *, char **);
int sqlite3_busy_timeout(sqlite3 *, int);
const char *sqlite3_errmsg(sqlite3 *);
int sqlite3_prepare_v2(sqlite3 *, const char *, int, sqlite3_stmt **, const char **);
int sqlite3_step(sqlite3_stmt *);
int64_t sqlite3_column_int64(sqlite3_stmt *, int);
const void *sqlite3_column_blob(sqlite3_stmt *, int);
const unsigned char *sqlite3_column_text(sqlite3_stmt *, int);
int sqlite3_column_bytes(sqlite3_stmt *, int);
int sqlite3_finalize(sqlite3_stmt *);
int sqlite3_bind_int64(sqlite3_stmt *, int, int64_t);
int sqlite3_bind_blob(sqlite3_stmt *, int, const void *, int, void (*)(void *));
int sqlite3_reset(sqlite3_stmt *);
enum { SQLITE_OK = 0, SQLITE_BUSY = 5, SQLITE_ROW = 100, SQLITE_DONE = 101 };

enum { WRITERS = 3, READERS = 2, LARGEST = 3000, SEGMENT = 96 * 1024, BATCH = 4 };

static int notes = -1, report = -1;
static const char *place;

/* A line of the report: when it was, and in which mount, by its device number. */
static void say(const char *format, ...) {
    char line[800];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, 700, format, arguments);
    va_end(arguments);
    if (length > 699) length = 699;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct tm *parts = gmtime(&now.tv_sec);
    struct stat found;
    unsigned device = stat(place, &found) ? 0 : found.st_dev;
    length += snprintf(line + length, sizeof line - length, " [%02d:%02d:%02d.%03ld, device %u:%u]\n", parts->tm_hour,
                       parts->tm_min, parts->tm_sec, now.tv_nsec / 1000000, device >> 8, device & 255);
    if (write(report, line, length) != length) _exit(3);
}

#define FAIL(...) do { say("error: " __VA_ARGS__); _exit(1); } while (0)

/* Appended by one write each: whole whatever is killed, and in the order in which they were acknowledged. */
static void note(int writer, int64_t number) {
    char line[32];
    int length = snprintf(line, sizeof line, "%d %lld\n", writer, (long long)number);
    if (write(notes, line, length) != length) FAIL("note: %s", strerror(errno));
}

/* All of it, or an error: a call that a dying mount has cut short says none by itself. */
static void write_all(int file, const void *bytes, ssize_t size, const char *path) {
    ssize_t written = write(file, bytes, size);
    if (written != size) FAIL("write %s: %s", path, strerror(written < 0 ? errno : EIO));
}

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

/* The bytes of one row or record; returns how many they are. */
static int make_bytes(unsigned char *bytes, int writer, int64_t number) {
    uint64_t state = mix(number * 64 + writer + 1);
    int length = 40 + state % (LARGEST - 40);
    for (int i = 0; i < length; i++) {
        if (i % 8 == 0) state = mix(state + 0x9e3779b97f4a7c15ULL);
        bytes[i] = state >> (i % 8 * 8);
    }
    return length;
}

/* The last number that each writer has noted, and how many notes there are. */
static int64_t read_notes(const char *path, int64_t last[WRITERS]) {
    for (int i = 0; i < WRITERS; i++) last[i] = -1;
    FILE *file = fopen(path, "r");
    if (!file) FAIL("open the notes: %s", strerror(errno));
    int writer;
    long long number;
    int64_t count = 0;
    while (fscanf(file, "%d %lld\n", &writer, &number) == 2) {
        if (writer < 0 || writer >= WRITERS || number != last[writer] + 1) FAIL("a note says %d %lld", writer, number);
        last[writer] = number;
        count++;
    }
    fclose(file);
    return count;
}

/* --- SQLite ---------------------------------------------------------------------------------------------- */

static const char *database;

static sqlite3 *open_database(const char *journal) {
    sqlite3 *db;
    if (sqlite3_open(database, &db) != SQLITE_OK) FAIL("open: %s", sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 60000);
    char settings[300];
    /* A small cache spills in the middle of a transaction, and a small log is checkpointed all the time. */
    snprintf(settings, sizeof settings,
             "PRAGMA journal_mode=%s; PRAGMA synchronous=FULL; PRAGMA cache_size=20; PRAGMA wal_autocheckpoint=40;",
             strcmp(journal, "wal") ? "DELETE" : "WAL");
    char *why = NULL;
    if (sqlite3_exec(db, settings, NULL, NULL, &why) != SQLITE_OK) FAIL("settings: %s", why);
    return db;
}

static void run(sqlite3 *db, const char *sql) {
    char *why = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK) FAIL("%s: %s", sql, why);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql) {
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) FAIL("%s: %s", sql, sqlite3_errmsg(db));
    return statement;
}

static int64_t ask(sqlite3 *db, const char *sql) {
    sqlite3_stmt *statement = prepare(db, sql);
    if (sqlite3_step(statement) != SQLITE_ROW) FAIL("%s: %s", sql, sqlite3_errmsg(db));
    int64_t answer = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return answer;
}

static void check_integrity(sqlite3 *db) {
    sqlite3_stmt *statement = prepare(db, "PRAGMA integrity_check");
    if (sqlite3_step(statement) != SQLITE_ROW) FAIL("integrity_check: %s", sqlite3_errmsg(db));
    const char *verdict = (const char *)sqlite3_column_text(statement, 0);
    if (strcmp(verdict, "ok")) FAIL("integrity_check: %s", verdict);
    sqlite3_finalize(statement);
}

/* Each row as it was written, none missing between the first and the last; more than was noted by one of each writer. */
static int64_t check_rows(sqlite3 *db, const int64_t last[WRITERS]) {
    int64_t next[WRITERS] = {0}, found = 0;
    sqlite3_stmt *statement = prepare(db, "SELECT writer, number, bytes FROM rows ORDER BY writer, number");
    int step;
    unsigned char wanted[LARGEST];
    while ((step = sqlite3_step(statement)) == SQLITE_ROW) {
        int writer = sqlite3_column_int64(statement, 0);
        int64_t number = sqlite3_column_int64(statement, 1);
        if (writer < 0 || writer >= WRITERS) FAIL("a row of writer %d", writer);
        if (number != next[writer]) FAIL("writer %d: row %lld in place of %lld", writer, (long long)number, (long long)next[writer]);
        int length = make_bytes(wanted, writer, number);
        if (sqlite3_column_bytes(statement, 2) != length || memcmp(sqlite3_column_blob(statement, 2), wanted, length))
            FAIL("writer %d: row %lld has other bytes", writer, (long long)number);
        next[writer]++;
        found++;
    }
    if (step != SQLITE_DONE) FAIL("rows: %s", sqlite3_errmsg(db));
    sqlite3_finalize(statement);
    for (int i = 0; i < WRITERS; i++) {
        if (next[i] <= last[i]) FAIL("writer %d: %lld rows were acknowledged, %lld are there", i, (long long)last[i] + 1, (long long)next[i]);
        if (next[i] > last[i] + 2) FAIL("writer %d: %lld rows of which %lld were acknowledged", i, (long long)next[i], (long long)last[i] + 1);
    }
    int64_t counted = ask(db, "SELECT total(written) FROM counters");
    if (counted != found) FAIL("the counters say %lld rows, %lld are there", (long long)counted, (long long)found);
    return found;
}

/* What was committed and not noted is noted once a further commit has shown that this is durable: after a mount was lost,
 * what is read may be in the page cache only. */
static void write_rows(const char *journal, int writer, int64_t noted) {
    sqlite3 *db = open_database(journal);
    sqlite3_stmt *insert = prepare(db, "INSERT INTO rows VALUES (?, ?, ?)");
    sqlite3_stmt *count = prepare(db, "UPDATE counters SET written = written + 1 WHERE writer = ?");
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM rows WHERE writer = %d", writer);
    unsigned char bytes[LARGEST];
    /* It has to change something: SQLite neither writes nor syncs what is the same as before. */
    run(db, "INSERT INTO starts VALUES (randomblob(20))");
    int64_t first = ask(db, sql);
    for (int64_t number = noted + 1; number < first; number++) note(writer, number);
    for (int64_t number = first;; number++) {
        run(db, "BEGIN IMMEDIATE");
        sqlite3_bind_int64(insert, 1, writer);
        sqlite3_bind_int64(insert, 2, number);
        sqlite3_bind_blob(insert, 3, bytes, make_bytes(bytes, writer, number), NULL);
        sqlite3_bind_int64(count, 1, writer);
        /* Every ninth time the file shrinks and grows, and much of it moves. */
        if (number % 9 == 8) run(db, "DELETE FROM scratch; INSERT INTO scratch SELECT randomblob(900) FROM rows LIMIT 60");
        if (sqlite3_step(insert) != SQLITE_DONE || sqlite3_step(count) != SQLITE_DONE) FAIL("insert: %s", sqlite3_errmsg(db));
        sqlite3_reset(insert);
        sqlite3_reset(count);
        run(db, "COMMIT");
        note(writer, number);
        /* Without rows in it the file ends before them. */
        if (number % 50 == 49 && writer == 0) run(db, "PRAGMA incremental_vacuum");
    }
}

/* One snapshot has as many rows as its counters say. */
static void read_rows(const char *journal) {
    sqlite3 *db = open_database(journal);
    for (;;) {
        run(db, "BEGIN");
        int64_t rows = ask(db, "SELECT count(*) FROM rows"), counted = ask(db, "SELECT total(written) FROM counters");
        if (rows != counted) FAIL("a reader sees %lld rows and counters of %lld", (long long)rows, (long long)counted);
        run(db, "COMMIT");
        usleep(100000);
    }
}

static void check_database(const char *journal, const int64_t last[WRITERS], int64_t noted) {
    /* Set before the first table, as it must be. */
    sqlite3 *db;
    if (sqlite3_open(database, &db) != SQLITE_OK) FAIL("open: %s", sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 60000);
    if (noted == 0) run(db, "PRAGMA auto_vacuum=INCREMENTAL");
    run(db, "CREATE TABLE IF NOT EXISTS rows (writer INTEGER, number INTEGER, bytes BLOB, PRIMARY KEY (writer, number));"
            "CREATE INDEX IF NOT EXISTS by_bytes ON rows (substr(bytes, 1, 20));"
            "CREATE TABLE IF NOT EXISTS counters (writer INTEGER PRIMARY KEY, written INTEGER);"
            "CREATE TABLE IF NOT EXISTS scratch (bytes BLOB);"
            "CREATE TABLE IF NOT EXISTS starts (mark BLOB);"
            "INSERT OR IGNORE INTO counters VALUES (0, 0), (1, 0), (2, 0);");
    /* Of several that give it another journal at once SQLite lets all but one fail, and none wait: here is only one. */
    run(db, strcmp(journal, "wal") ? "PRAGMA journal_mode=DELETE" : "PRAGMA journal_mode=WAL");
    check_integrity(db);
    int64_t found = check_rows(db, last);
    say("whole: %lld acknowledged, %lld there", (long long)noted, (long long)found);
    /* No connection is carried through a fork. */
    exit(0);
}

/* --- the log --------------------------------------------------------------------------------------------- */

struct header { uint32_t length, writer; uint64_t number, sum; };

static uint64_t sum_of(const unsigned char *bytes, int length, uint64_t number) {
    uint64_t sum = mix(number + 1);
    for (int i = 0; i < length; i++) sum = (sum ^ bytes[i]) * 0x100000001b3ULL;
    return sum;
}

static void sync_directory(const char *path) {
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0 || fsync(directory)) FAIL("fsync of %s: %s", path, strerror(errno));
    close(directory);
}

/* The records of a file from `next` on; `torn` allows its end to be cut off. Returns where its last whole record ends. */
static off_t read_records(const char *path, int writer, int64_t *next, int torn) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) FAIL("open %s: %s", path, strerror(errno));
    struct stat found;
    if (fstat(file, &found)) FAIL("stat %s: %s", path, strerror(errno));
    unsigned char *bytes = malloc(found.st_size + 1), wanted[LARGEST];
    for (off_t at = 0; at < found.st_size;) {
        ssize_t got = pread(file, bytes + at, found.st_size - at, at);
        if (got == 0) FAIL("%s: an end at %lld of %lld bytes", path, (long long)at, (long long)found.st_size);
        if (got < 0) FAIL("read %s: %s", path, strerror(errno));
        at += got;
    }
    close(file);
    off_t at = 0;
    while (at < found.st_size) {
        struct header header;
        if (found.st_size - at < (off_t)sizeof header) break;
        memcpy(&header, bytes + at, sizeof header);
        if (header.length > LARGEST || found.st_size - at - (off_t)sizeof header < (off_t)header.length) break;
        unsigned char *body = bytes + at + sizeof header;
        if (header.sum != sum_of(body, header.length, header.number)) break;
        int length = make_bytes(wanted, writer, header.number);
        if ((int)header.writer != writer || (int64_t)header.number != *next || (int)header.length != length || memcmp(body, wanted, length))
            FAIL("%s: record %lld of %d in place of %lld of %d", path, (long long)header.number, header.writer, (long long)*next, writer);
        ++*next;
        at += sizeof header + header.length;
    }
    if (at != found.st_size && !torn) FAIL("%s: no record at %lld of %lld bytes", path, (long long)at, (long long)found.st_size);
    free(bytes);
    return at;
}

static int by_number(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Chunks are named by their first record. A segment may repeat what a chunk holds: it goes after the chunk has come. */
static int64_t check_stream(const char *directory, int writer) {
    DIR *listing = opendir(directory);
    if (!listing) FAIL("list %s: %s", directory, strerror(errno));
    uint64_t firsts[65536];
    int chunks = 0;
    for (struct dirent *entry; (entry = readdir(listing));) {
        unsigned long long first;
        int end = 0;
        if (sscanf(entry->d_name, "chunk-%16llx%n", &first, &end) == 1 && !entry->d_name[end] && chunks < 65536) firsts[chunks++] = first;
    }
    closedir(listing);
    qsort(firsts, chunks, sizeof firsts[0], by_number);
    int64_t next = 0;
    char path[4300];
    for (int i = 0; i < chunks; i++) {
        if ((int64_t)firsts[i] != next) FAIL("%s: a chunk begins with %llu in place of %lld", directory, (unsigned long long)firsts[i], (long long)next);
        snprintf(path, sizeof path, "%s/chunk-%016llx", directory, (unsigned long long)firsts[i]);
        read_records(path, writer, &next, 0);
    }
    snprintf(path, sizeof path, "%s/segment-%016llx", directory, (unsigned long long)next);
    if (!access(path, F_OK)) {
        off_t whole = read_records(path, writer, &next, 1);
        if (truncate(path, whole)) FAIL("truncate %s: %s", path, strerror(errno));
    }
    return next;
}

static void copy_segment(const char *directory, uint64_t first) {
    char segment[4300], half[4300], chunk[4300];
    snprintf(segment, sizeof segment, "%s/segment-%016llx", directory, (unsigned long long)first);
    snprintf(half, sizeof half, "%s/half-made", directory);
    snprintf(chunk, sizeof chunk, "%s/chunk-%016llx", directory, (unsigned long long)first);
    int from = open(segment, O_RDONLY | O_CLOEXEC), to = open(half, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (from < 0 || to < 0) FAIL("a chunk of %s: %s", segment, strerror(errno));
    char bytes[16384];
    ssize_t got;
    while ((got = read(from, bytes, sizeof bytes)) > 0)
        write_all(to, bytes, got, half);
    if (got < 0 || fsync(to) || close(to)) FAIL("%s: %s", half, strerror(errno));
    close(from);
    if (rename(half, chunk)) FAIL("rename to %s: %s", chunk, strerror(errno));
    sync_directory(directory);
    if (unlink(segment)) FAIL("unlink %s: %s", segment, strerror(errno));
}

static void write_log(const char *directory, int writer, int64_t noted) {
    int64_t number = check_stream(directory, writer);
    /* What a segment holds already becomes a chunk first, so that a segment's name says where it begins. */
    DIR *listing = opendir(directory);
    uint64_t first = number;
    for (struct dirent *entry; listing && (entry = readdir(listing));) {
        unsigned long long begins;
        char path[4500];
        if (sscanf(entry->d_name, "segment-%16llx", &begins) != 1) continue;
        snprintf(path, sizeof path, "%s/chunk-%016llx", directory, begins);
        if (!access(path, F_OK)) {
            snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
            if (unlink(path)) FAIL("unlink %s: %s", path, strerror(errno));
        } else {
            first = begins;
        }
    }
    if (listing) closedir(listing);
    if (first != (uint64_t)number) copy_segment(directory, first);
    unsigned char bytes[sizeof(struct header) + LARGEST];
    for (;;) {
        char path[4300];
        snprintf(path, sizeof path, "%s/segment-%016llx", directory, (unsigned long long)number);
        int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
        if (file < 0) FAIL("open %s: %s", path, strerror(errno));
        sync_directory(directory);
        /* A new file is durable now, and so is all that came before it: after a mount was lost, what is read may be in the
         * page cache only. */
        for (; noted + 1 < number; noted++) note(writer, noted + 1);
        noted = INT64_MAX - 1;
        first = number;
        for (off_t written = 0; written < SEGMENT;) {
            int64_t begins = number;
            for (int i = 0; i < BATCH; i++, number++) {
                struct header header = {.writer = writer, .number = number};
                header.length = make_bytes(bytes + sizeof header, writer, number);
                header.sum = sum_of(bytes + sizeof header, header.length, number);
                memcpy(bytes, &header, sizeof header);
                ssize_t size = sizeof header + header.length;
                write_all(file, bytes, size, path);
                written += size;
            }
            if (fsync(file)) FAIL("fsync %s: %s", path, strerror(errno));
            for (; begins < number; begins++) note(writer, begins);
        }
        if (close(file)) FAIL("close %s: %s", path, strerror(errno));
        copy_segment(directory, first);
    }
}

static void stream_of(char *directory, size_t size, const char *volume, int writer) {
    snprintf(directory, size, "%s/stream-%d", volume, writer);
    if (mkdir(directory, 0755) && errno != EEXIST) FAIL("mkdir %s: %s", directory, strerror(errno));
}

static void check_log(const char *volume, const int64_t last[WRITERS], int64_t noted) {
    int64_t found = 0;
    for (int i = 0; i < WRITERS; i++) {
        char directory[4200];
        stream_of(directory, sizeof directory, volume, i);
        int64_t next = check_stream(directory, i);
        if (next <= last[i]) FAIL("stream %d: %lld records were acknowledged, %lld are there", i, (long long)last[i] + 1, (long long)next);
        found += next;
    }
    say("whole: %lld acknowledged, %lld there", (long long)noted, (long long)found);
    exit(0);
}

/* --------------------------------------------------------------------------------------------------------- */

static pid_t begin(void) {
    pid_t child = fork();
    if (child < 0) FAIL("fork: %s", strerror(errno));
    if (child == 0) prctl(PR_SET_PDEATHSIG, SIGKILL);
    return child;
}

int main(int argc, char **argv) {
    if (argc != 5) return 64;
    const char *what = argv[1];
    const char *volume = place = argv[2];
    int is_log = !strcmp(what, "log");
    notes = open(argv[3], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    report = open(argv[4], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (notes < 0 || report < 0) return 73;
    int64_t last[WRITERS], noted = read_notes(argv[3], last);

    char path[4200];
    snprintf(path, sizeof path, "%s/torture.db", volume);
    database = path;

    pid_t checker = begin();
    if (checker == 0) is_log ? check_log(volume, last, noted) : check_database(what, last, noted);
    int status;
    if (waitpid(checker, &status, 0) != checker || status) return 1;
    int children = is_log ? WRITERS : WRITERS + READERS;
    for (int i = 0; i < children; i++) {
        if (begin()) continue;
        char directory[4200];
        if (is_log) {
            stream_of(directory, sizeof directory, volume, i);
            write_log(directory, i, last[i]);
        } else if (i < WRITERS) {
            write_rows(what, i, last[i]);
        } else {
            read_rows(what);
        }
    }
    /* None ends but by an error or a signal. */
    wait(&status);
    return 1;
}
