// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tierctl/metrics_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "tools/common/failure.h"
#include "tools/tierctl/nodes.h"

namespace tierctl {
namespace {

enum class Type { kGauge, kCounter };
enum class Unit { kNone, kBytes, kSeconds, kPages, kRatio };

// A number of a node, or of an object in it. Counters begin with the guest.
struct Metric {
  const char* name;    // without prefix, unit and "_total"
  const char* object;  // within the node; null: the node itself
  const char* field;
  Type type;
  Unit unit;
  const char* help;
  const char* label = nullptr;  // one more, as it is written
};

constexpr auto kGauge = Type::kGauge;
constexpr auto kCounter = Type::kCounter;

// Those of one name stand together.
constexpr std::array kMetrics = {
    Metric{"size", nullptr, "size", kGauge, Unit::kBytes, "Memory of the node."},
    Metric{"dram_limit", nullptr, "dram-size", kGauge, Unit::kBytes, "DRAM for copies, at most."},
    Metric{"dram_resident", nullptr, "dram-resident", kGauge, Unit::kBytes, "Copies in DRAM."},
    Metric{"dirty", nullptr, "dirty", kGauge, Unit::kBytes,
           "Copies in DRAM that are not in the image yet."},
    Metric{"image_allocated", nullptr, "allocated", kGauge, Unit::kBytes, "Pages of the image."},
    Metric{"image_disk", nullptr, "disk", kGauge, Unit::kBytes,
           "What the files of the image occupy."},
    Metric{"mappings", nullptr, "mappings", kGauge, Unit::kNone, "Kernel mappings in use."},
    Metric{"mapping_budget", nullptr, "mapping-budget", kGauge, Unit::kNone,
           "Kernel mappings that may be in use."},
    Metric{"dma_maps", nullptr, "dma-maps", kGauge, Unit::kNone, "Direct accesses of devices now."},
    Metric{"chunks", "chunks", "hole", kGauge, Unit::kNone,
           "Chunks of 2 MiB by how they are mapped.", "state=\"hole\""},
    Metric{"chunks", "chunks", "cached", kGauge, Unit::kNone, "", "state=\"cached\""},
    Metric{"chunks", "chunks", "huge", kGauge, Unit::kNone, "", "state=\"huge\""},
    Metric{"chunks", "chunks", "direct", kGauge, Unit::kNone, "", "state=\"direct\""},
    Metric{"committed_epoch", nullptr, "epoch", kGauge, Unit::kNone, "The epoch that is durable."},
    Metric{"commits", nullptr, "commits", kCounter, Unit::kNone, "Commits on demand."},
    Metric{"last_pause", nullptr, "last-pause-ns", kGauge, Unit::kSeconds,
           "How long the last commit on demand stopped the guest."},
    Metric{"epochs", "epochs", "epochs", kCounter, Unit::kNone, "Epochs made in intervals."},
    Metric{"early_epochs", "epochs", "early", kCounter, Unit::kNone,
           "Epochs made before their time, because the log was filling."},
    Metric{"failed_epochs", "epochs", "failed", kCounter, Unit::kNone, "Epochs that failed."},
    Metric{"restarted_epochs", "epochs", "restarts", kCounter, Unit::kNone,
           "Epochs that began again in a larger log."},
    Metric{"flushes", "epochs", "flushes", kCounter, Unit::kNone, "Flushes answered."},
    Metric{"copied", "epochs", "precopied-pages", kCounter, Unit::kPages,
           "Copied for epochs, by when.", "guest=\"runs\""},
    Metric{"copied", "epochs", "residue-pages", kCounter, Unit::kPages, "", "guest=\"rests\""},
    Metric{"changed", nullptr, "changed", kCounter, Unit::kBytes,
           "Pages that were found to be stored to, each time."},
    Metric{"stored", "stored", "log", kCounter, Unit::kBytes, "Stored to the medium, by cause.",
           "cause=\"log\""},
    Metric{"stored", "stored", "checkpoint", kCounter, Unit::kBytes, "", "cause=\"checkpoint\""},
    Metric{"stored", "stored", "pages", kCounter, Unit::kBytes, "", "cause=\"pages\""},
    Metric{"stored", "stored", "copies", kCounter, Unit::kBytes, "", "cause=\"copies\""},
    Metric{"stored", "stored", "metadata", kCounter, Unit::kBytes, "", "cause=\"metadata\""},
    Metric{"checkpointed", "epochs", "checkpointed-pages", kCounter, Unit::kPages,
           "Moved from the log to their places."},
    Metric{"epoch_interval", "epochs", "interval-ms", kGauge, Unit::kSeconds,
           "Time between epochs now."},
    Metric{"holds", "epochs", "holds", kCounter, Unit::kNone,
           "How often the guest was held, because it was faster than the log."},
    Metric{"held", "epochs", "held-ns", kCounter, Unit::kSeconds,
           "How long the guest was held, because it was faster than the log."},
    Metric{"promoted", "moves", "promoted-pages", kCounter, Unit::kPages, "Copied to DRAM."},
    Metric{"demoted", nullptr, "demoted-pages", kCounter, Unit::kPages,
           "Dropped from DRAM, by when.", "at=\"commit\""},
    Metric{"demoted", "moves", "demoted-pages", kCounter, Unit::kPages, "", "at=\"epoch\""},
    Metric{"limit_demotions", "moves", "limit-demotions", kCounter, Unit::kPages,
           "Chosen to leave DRAM for the limit alone."},
    Metric{"refused_moves", "moves", "refused-cool-down", kCounter, Unit::kPages,
           "Moves that were wanted and not made, with every plan.", "reason=\"cool-down\""},
    Metric{"refused_moves", "moves", "refused-pinned", kCounter, Unit::kPages, "",
           "reason=\"pinned\""},
    Metric{"refused_moves", "moves", "refused-rate", kCounter, Unit::kPages, "", "reason=\"rate\""},
    Metric{"refused_moves", "moves", "refused-no-colder-page", kCounter, Unit::kPages, "",
           "reason=\"no-colder-page\""},
    Metric{"refused_moves", "moves", "refused-unmovable", kCounter, Unit::kPages, "",
           "reason=\"unmovable\""},
    Metric{"refused_moves", "moves", "refused-failed", kCounter, Unit::kPages, "",
           "reason=\"failed\""},
    Metric{"dram_hit", "moves", "hit-per-mille", kGauge, Unit::kRatio,
           "Share of the accesses to be expected whose page is in DRAM."},
    Metric{"watched_chunks", "moves", "watched-chunks", kCounter, Unit::kNone,
           "Chunks whose reads were looked at."},
    Metric{"reads_seen", "moves", "read-pages", kCounter, Unit::kPages,
           "Seen read in the chunks that were looked at."},
    Metric{"policy_steps", "moves", "steps", kCounter, Unit::kNone, "Looks at what was used."},
    Metric{"policy_failures", "moves", "failed-steps", kCounter, Unit::kNone,
           "Steps in which the policy failed, and pages left DRAM for the limit alone."},
    Metric{"policy_busy", "moves", "busy-ns", kCounter, Unit::kSeconds,
           "Time of a thread for the policy."},
    Metric{"tracker", "moves", "tracker", kGauge, Unit::kBytes,
           "Memory for what is known of the pages."},
};

const char* unit_name(Unit unit) {
  switch (unit) {
    case Unit::kBytes:
      return "bytes";
    case Unit::kSeconds:
      return "seconds";
    case Unit::kPages:
      return "pages";
    case Unit::kRatio:
      return "ratio";
    case Unit::kNone:
      break;
  }
  return "";
}

std::string full_name(const Metric& metric) {
  std::string name = std::string("pcow_") + metric.name;
  if (metric.unit != Unit::kNone) name += std::string("_") + unit_name(metric.unit);
  return name;
}

// Of a label.
std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '\\' || c == '"') result += '\\';
    result += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return result;
}

// How many of what the field counts make one of the unit.
double parts_of(const Metric& metric) {
  const std::string_view field = metric.field;
  if (field.ends_with("-per-mille") || field.ends_with("-ms")) return 1e3;
  return field.ends_with("-ns") ? 1e9 : 1;
}

std::string decimal(double value) {
  std::array<char, 40> digits{};
  const auto [end, error] =
      std::to_chars(digits.data(), digits.data() + digits.size(), value, std::chars_format::fixed);
  return {digits.data(), end};
}

std::string number_text(const Metric& metric, uint64_t value) {
  const double parts = parts_of(metric);
  return parts == 1 ? std::to_string(value) : decimal(static_cast<double>(value) / parts);
}

// The first label of each sample, without the end.
std::string node_label(const Json& node) {
  return "{node=\"" + escaped(text_field(node, "id").value_or("")) + "\"";
}

void append_sample(const Metric& metric, const Json& node, std::string& text) {
  const std::optional<uint64_t> value = number_within(node, metric.object, metric.field);
  if (!value) return;
  text += full_name(metric) + (metric.type == kCounter ? "_total" : "") + node_label(node) +
          (metric.label == nullptr ? "" : std::string(",") + metric.label) + "} " +
          number_text(metric, *value) + "\n";
}

// Seconds. Those of one node stand together, as its buckets do.
void append_pauses_of(const Json& node, std::string& text) {
  constexpr std::array kBounds = {1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2,
                                  2e-2, 5e-2, 0.1,  0.2,  0.5,  1.0};
  const std::optional<Pauses> pauses = pauses_of(node);
  if (!pauses) return;
  std::array<uint64_t, kBounds.size() + 1> counts{};  // the last: all
  for (const auto& [up_to_ns, count] : *pauses) {
    const double longest = static_cast<double>(up_to_ns) / 1e9;
    for (size_t i = 0; i < kBounds.size(); ++i) {
      if (longest <= kBounds.at(i)) counts.at(i) += count;
    }
    counts.back() += count;
  }
  const std::string label = node_label(node);
  const std::string name = "pcow_barrier_pause_seconds";
  for (size_t i = 0; i < counts.size(); ++i) {
    text += name + "_bucket" + label + ",le=\"" +
            (i < kBounds.size() ? decimal(kBounds.at(i)) : "+Inf") + "\"} " +
            std::to_string(counts.at(i)) + "\n";
  }
  const auto sum = number_within(node, "epochs", "pause-sum-ns");
  if (!sum) return;
  text += name + "_count" + label + "} " + std::to_string(counts.back()) + "\n";
  text += name + "_sum" + label + "} " + decimal(static_cast<double>(*sum) / 1e9) + "\n";
}

// How long barriers took, as a distribution.
void append_pauses(const Json& nodes, std::string& text) {
  std::string samples;
  for (const Json& node : nodes) append_pauses_of(node, samples);
  if (samples.empty()) return;
  text +=
      "# TYPE pcow_barrier_pause_seconds histogram\n# UNIT pcow_barrier_pause_seconds seconds\n"
      "# HELP pcow_barrier_pause_seconds How long the guest rested for an epoch.\n" +
      samples;
}

// The first one of a family has it.
const char* help_of(const Metric& metric) {
  const std::string_view name = metric.name;
  return std::ranges::find_if(kMetrics, [&](const Metric& m) { return m.name == name; })->help;
}

}  // namespace

std::string metrics_text(const Json& nodes) {
  for (const Json& node : nodes) {
    if (!text_field(node, "id")) throw tools::Failure("QEMU listed a node without an id");
  }
  std::string text;
  std::string_view family;
  for (const Metric& metric : kMetrics) {
    std::string samples;
    for (const Json& node : nodes) append_sample(metric, node, samples);
    if (samples.empty()) continue;
    const std::string name = full_name(metric);
    if (family != metric.name) {
      text += "# TYPE " + name + (metric.type == kCounter ? " counter\n" : " gauge\n");
      if (metric.unit != Unit::kNone)
        text += "# UNIT " + name + " " + unit_name(metric.unit) + "\n";
      text += "# HELP " + name + " " + help_of(metric) + "\n";
      family = metric.name;
    }
    text += samples;
  }
  append_pauses(nodes, text);
  if (text.empty() && !nodes.empty()) {
    throw tools::Failure("QEMU told nothing of its pcow nodes that can be measured");
  }
  return text + "# EOF\n";
}

}  // namespace tierctl
