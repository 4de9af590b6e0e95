/* commands.h: the program's commands, one file each, and how they report an error. */
#ifndef MF_CLI_COMMANDS_H
#define MF_CLI_COMMANDS_H

#include "meshfold/base.h"

/* argv[0] is the command's name. They return the program's exit code. */
int mf_command_bench(int argc, char **argv);
int mf_command_calibrate(int argc, char **argv);
int mf_command_convert(int argc, char **argv);
int mf_command_eval(int argc, char **argv);
int mf_command_generate(int argc, char **argv);
int mf_command_info(int argc, char **argv);
int mf_command_plan(int argc, char **argv);
int mf_command_shapes(int argc, char **argv);
int mf_command_tokenize(int argc, char **argv);
int mf_command_train(int argc, char **argv);
int mf_command_verify(int argc, char **argv);

/* Prints this thread's last error to stderr, with its trace where MESHFOLD_TRACE=1, and returns the exit
 * code: 2 where the user can put it right (flags, inputs, what this build can't do), else 1. A command whose
 * inputs are all read returns 1 itself for MF_EIO: what failed then is an output. */
int mf_report_error(mf_status status);

#endif
