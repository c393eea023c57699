// SPDX-License-Identifier: BSD-3-Clause
//
// The verbs of tierctl, one file each.
#pragma once

#include <string>
#include <vector>

namespace tierctl {

int run_status(const std::vector<std::string>& args);
int run_commit(const std::vector<std::string>& args);
int run_snapshot(const std::vector<std::string>& args);
int run_policy(const std::vector<std::string>& args);
int run_explain(const std::vector<std::string>& args);
int run_metrics(const std::vector<std::string>& args);
int run_top(const std::vector<std::string>& args);
int run_events(const std::vector<std::string>& args);
int run_log_level(const std::vector<std::string>& args);

}  // namespace tierctl
