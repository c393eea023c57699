// SPDX-License-Identifier: BSD-3-Clause
#include "tests/crash/explorer.h"

#include <cstdio>

namespace crash {
namespace {

constexpr int kDepthMax = 2;  // a crash, a crash of its recovery, a crash of the next recovery

bool is_fence(const Event& event) {
  return event.kind == EventKind::kDrain || event.kind == EventKind::kSync;
}

uint64_t digest(const Pages& pages) {
  uint64_t sum = pages.size();
  for (const auto& [page, versions] : pages) {
    sum = mix(sum, page);
    for (const Version version : versions) sum = mix(sum, version);
  }
  return sum;
}

uint64_t digest(const Expectation& expected) {
  uint64_t sum = mix(expected.any_of.size(), expected.may_not_exist ? 1 : 0);
  for (const Model& model : expected.any_of) {
    sum = mix(mix(sum, model.size), mix(model.epoch, model.clean ? 1 + (*model.clean ? 1 : 0) : 0));
    sum = mix(sum, digest(model.pages));
    for (const auto& [name, kept] : model.snapshots) {
      sum = mix(mix(sum, std::hash<std::string>()(name)), mix(kept.size, digest(kept.pages)));
    }
  }
  return sum;
}

}  // namespace

bool Explorer::finished() const {
  return totals_->violations >= options_.violations_max ||
         (options_.states_max != 0 && totals_->states >= options_.states_max) ||
         (options_.deadline && std::chrono::steady_clock::now() >= *options_.deadline);
}

void Explorer::explore(const Recording& recording, const std::string& name) {
  Trace trace = recording.trace;
  totals_->operations += trace.events.size();
  if (options_.broken != nullptr && options_.broken->change_trace != nullptr) {
    options_.broken->change_trace(trace.events);
  }
  survivors_ = 0;
  Walk top{&trace, &recording.steps};
  top.name = name;
  walk(top);
}

void Explorer::walk(const Walk& walk) {
  WriteBack write_back(walk.trace->base, kind_);
  const std::vector<Event>& events = walk.trace->events;
  const auto at = [&](size_t event, bool step_ended) {
    if (walk.expected != nullptr) {
      point(walk, write_back, event, *walk.expected, walk.name);
      return;
    }
    const size_t number = events[event].step;
    const Step& step = walk.steps->at(number);
    point(walk, write_back, event, step_ended ? step.after : step.in_flight,
          walk.name + ", " + (step_ended ? "after" : "in") + " step " + std::to_string(number) +
              " (" + step.name + ")");
  };
  for (size_t event = 0; event < events.size() && !finished(); ++event) {
    if (is_fence(events[event])) at(event, false);
    write_back.apply(events[event], event);
    const bool last = event + 1 == events.size();
    if (last || events[event + 1].step != events[event].step) at(event, true);
  }
}

void Explorer::point(const Walk& walk, WriteBack& write_back, size_t event,
                     const Expectation& expected, const std::string& where) {
  const ChoiceLimits& limits = walk.depth == 0 ? options_.limits : options_.recovery_limits;
  const Choices choices = choose(write_back, limits, random_);
  ++totals_->points;
  if (choices.exhaustive) ++totals_->exhaustive;
  for (const Choice& choice : choices.list) {
    if (finished()) return;
    examine(walk, write_back, choice, expected, where + ", at event " + std::to_string(event));
  }
}

void Explorer::examine(const Walk& walk, WriteBack& write_back, const Choice& choice,
                       const Expectation& expected, const std::string& where) {
  ++totals_->states;
  SparseBytes state = write_back.state(choice);
  if (options_.broken != nullptr && options_.broken->change_state != nullptr) {
    options_.broken->change_state(state);
  }
  const uint64_t bytes = state.digest();
  if (seen_.insert(bytes).second) ++totals_->distinct;
  const uint64_t wanted = mix(digest(expected), walk.same_as.value_or(0));
  if (!checked_.insert(mix(bytes, wanted)).second) return;

  ++totals_->checked;
  Verdict verdict = verify(kind_, state, expected);
  if (!verdict.wrong && verdict.found && walk.same_as && verdict.found->digest() != *walk.same_as) {
    verdict.wrong = "the recovery, interrupted and repeated, finds something else than at first";
  }
  if (verdict.wrong) return report(where, write_back.describe(choice), *verdict.wrong);
  if (!verdict.found) return;

  const bool recovered = !verdict.recovery.events.empty();
  if (recovered && walk.depth < kDepthMax && random_() % options_.recovery_one_in == 0) {
    ++totals_->recoveries;
    if (walk.depth > 0) ++totals_->twice;
    if (options_.broken != nullptr && options_.broken->change_trace != nullptr) {
      options_.broken->change_trace(verdict.recovery.events);
    }
    Walk inner{&verdict.recovery, nullptr, &expected, verdict.found->digest(), walk.depth + 1};
    inner.name = where + ", " + write_back.describe(choice) + "; crash of its recovery";
    this->walk(inner);
  }
  // Each survivor is as likely as any other to be the one that is taken.
  if (random_() % ++survivors_ == 0) survivor_ = Survivor{std::move(state), *verdict.found};
}

void Explorer::report(const std::string& where, const std::string& choice,
                      const std::string& wrong) {
  ++totals_->violations;
  std::printf("violation: %s\n  %s\n  %s\n  again: %s --states %llu\n", wrong.c_str(),
              where.c_str(), choice.c_str(), options_.again.c_str(),
              static_cast<unsigned long long>(totals_->states - states_before_));
  std::fflush(stdout);
}

}  // namespace crash
