/* plan_analytic.h: the TSP paper's table for any model and degree, and where tsp begins to send less. */
#ifndef MF_CLI_PLAN_ANALYTIC_H
#define MF_CLI_PLAN_ANALYTIC_H

#include "meshfold/analytic.h"

/* To stdout, as a table for people, or as one JSON object. MF_EINVAL as mf_analytic_make says. */
mf_status mf_plan_analytic(const mf_model_options *model, int degree, bool json);

#endif
