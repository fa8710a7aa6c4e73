/* Usage: threads PHP_INI SCRIPT STOP_FILE THREADS CONFIG...
 *
 * Serves requests in THREADS threads at once, as a threaded web server does: each
 * request runs SCRIPT, with one of the configurations. Thread N takes that of number N,
 * round and round. A thread ends after a request that began when STOP_FILE was there;
 * half of them leave their place to a new thread in between. */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sapi/embed/php_embed.h>

enum { REQUESTS_OF_A_THREAD = 20 };

static const char *script, *stop_file, **configs;
static size_t config_count;

static void die(const char *what)
{
    fprintf(stderr, "threads: %s fails\n", what);
    _exit(1);
}

static void request(const char *config)
{
    static const char directive[] = "mailaffinity.config";
    zend_string *name = zend_string_init(directive, sizeof directive - 1, 0);
    zend_file_handle file;

    if (php_request_startup() == FAILURE)
        die("php_request_startup");
    SG(headers_sent) = 1;
    SG(request_info).no_headers = 1;
    /* As Apache does for php_admin_value. */
    if (zend_alter_ini_entry_chars(name, config, strlen(config), PHP_INI_SYSTEM, PHP_INI_STAGE_ACTIVATE) == FAILURE)
        die(directive);
    zend_string_release(name);
    zend_stream_init_filename(&file, script);
    php_execute_script(&file);
    zend_destroy_file_handle(&file);
    php_request_shutdown(NULL);
}

struct thread {
    pthread_t id;
    size_t number;
    int stopped;
};

static void *serve(void *argument)
{
    struct thread *thread = argument;
    int requests;

    ts_resource(0);
    for (requests = 0; !thread->stopped && (thread->number % 2 == 0 || requests < REQUESTS_OF_A_THREAD); requests++) {
        thread->stopped = access(stop_file, F_OK) == 0;
        request(configs[thread->number % config_count]);
    }
    ts_free_thread();
    return NULL;
}

/* Threads that follow each other in one place. */
static void *place(void *argument)
{
    struct thread *thread = argument;

    while (!thread->stopped) {
        pthread_t id;
        if (pthread_create(&id, NULL, serve, thread) != 0 || pthread_join(id, NULL) != 0)
            die("a thread");
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct thread *threads;
    size_t count, i;

    if (argc < 6)
        die("the command line");
    php_embed_module.php_ini_path_override = argv[1];
    script = argv[2];
    stop_file = argv[3];
    count = strtoul(argv[4], NULL, 10);
    configs = (const char **)argv + 5;
    config_count = (size_t)argc - 5;
    if (php_embed_init(1, argv) == FAILURE)
        die("php_embed_init");

    threads = calloc(count, sizeof *threads);
    for (i = 0; i < count; i++) {
        threads[i].number = i;
        if (pthread_create(&threads[i].id, NULL, place, &threads[i]) != 0)
            die("pthread_create");
    }
    for (i = 0; i < count; i++)
        pthread_join(threads[i].id, NULL);
    free(threads);
    php_embed_shutdown();
    return 0;
}
