/* main.c: finds the command that the first word names and runs it. */
#include "cli/commands.h"
#include "cli/flags.h"

#include <errno.h>
#include <string.h>

static const struct command {
    const char *name, *about;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"train", "train a model on one or many ranks", mf_command_train},
    {"generate", "go on with a text, or make clips of video, on any layout", mf_command_generate},
    {"eval", "loss and perplexity of a model on a text", mf_command_eval},
    {"tokenize", "turn text into token ids, and show what they are", mf_command_tokenize},
    {"shapes", "draw videos of moving shapes, to learn on", mf_command_shapes},
    {"convert", "turn models into Hugging Face folders, checkpoints, other types", mf_command_convert},
    {"verify", "compare loss and gradients of one model on several meshes", mf_command_verify},
    {"bench", "measure one model under many layouts, side by side", mf_command_bench},
    {"plan", "run a step dry on a described cluster: what fits, how fast", mf_command_plan},
    {"calibrate", "measure the machine at hand, for plan", mf_command_calibrate},
    {"info", "what this build has and what this machine offers", mf_command_info},
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static void print_usage(FILE *out) {
    fprintf(out, "meshfold %s: trains and runs transformers with weights and context folded over ranks\n\n",
            MESHFOLD_VERSION);
    fprintf(out, "usage: meshfold COMMAND [flags]\n\n");
    for (int i = 0; i < COMMANDS; i++) fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].about);
    fprintf(out,
            "\nmeshfold COMMAND --help lists a command's flags; meshfold --version prints the version.\n");
}

static const struct command *find_command(const char *name) {
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static int refuse_command(const char *word) {
    mf_nearest nearest = {.word = word};
    for (int i = 0; i < COMMANDS; i++) mf_nearest_offer(&nearest, commands[i].name);
    if (nearest.best)
        return mf_report_error(MF_FAIL(MF_EINVAL, "unknown command %s: did you mean %s? See meshfold --help",
                                       word, nearest.best));
    return mf_report_error(MF_FAIL(MF_EINVAL, "unknown command %s; see meshfold --help", word));
}

static int run_command(int argc, char **argv) {
    const char *word = argv[1];
    bool help = strcmp(word, "help") == 0;
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || (help && argc == 2)) {
        print_usage(stdout);
        return 0;
    }
    if (strcmp(word, "--version") == 0) {
        printf("meshfold %s\n", MESHFOLD_VERSION);
        return 0;
    }
    const struct command *command = find_command(help ? argv[2] : word);
    if (!command) return refuse_command(help ? argv[2] : word);
    char ask[] = "--help";
    return help ? command->run(2, (char *[]){argv[2], ask, NULL}) : command->run(argc - 1, argv + 1);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        print_usage(stderr);
        return 2;
    }
    int code = run_command(argc, argv);
    /* a full disk or a closed pipe shows here at the latest */
    bool lost_before = ferror(stdout), lost = fflush(stdout) != 0;
    if ((lost_before || lost) && code == 0) {
        (void)MF_FAIL(MF_EIO, "standard output: %s", lost ? strerror(errno) : "cannot be written");
        mf_report_error(MF_EIO);
        return 1;
    }
    return code;
}
