// SPDX-License-Identifier: BSD-3-Clause
//
// tierctl metrics: what QEMU tells of its pcow nodes, as OpenMetrics text.
// Specification: https://prometheus.io/docs/specs/om/open_metrics_spec/
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <optional>

#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/tierctl/commands.h"
#include "tools/tierctl/nodes.h"

namespace tierctl {
namespace {

enum class Type { kGauge, kCounter };
enum class Unit { kNone, kBytes, kSeconds, kPages };

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
    Metric{"flushes", "epochs", "flushes", kCounter, Unit::kNone, "Flushes answered."},
    Metric{"copied", "epochs", "precopied-pages", kCounter, Unit::kPages,
           "Copied for epochs, by when.", "guest=\"runs\""},
    Metric{"copied", "epochs", "residue-pages", kCounter, Unit::kPages, "", "guest=\"rests\""},
    Metric{"written", nullptr, "written", kCounter, Unit::kBytes,
           "Stored into the image, by cause.", "cause=\"commit\""},
    Metric{"written", "epochs", "logged", kCounter, Unit::kBytes, "", "cause=\"log\""},
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

std::string number_text(const Metric& metric, uint64_t value) {
  if (metric.unit != Unit::kSeconds) return std::to_string(value);
  const bool milliseconds = std::string_view(metric.field).ends_with("-ms");
  const double seconds = static_cast<double>(value) / (milliseconds ? 1e3 : 1e9);
  std::array<char, 40> digits{};
  const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), seconds);
  return {digits.data(), end};
}

std::optional<uint64_t> value_of(const Metric& metric, const Json& node) {
  if (metric.object == nullptr) return number_field(node, metric.field);
  const auto object = node.find(metric.object);
  if (object == node.end() || !object->is_object()) return std::nullopt;
  return number_field(*object, metric.field);
}

void append_sample(const Metric& metric, const Json& node, std::string& text) {
  const std::optional<uint64_t> value = value_of(metric, node);
  if (!value) return;
  text += full_name(metric) + (metric.type == kCounter ? "_total" : "") + "{node=\"" +
          escaped(text_field(node, "id").value_or("")) + "\"" +
          (metric.label == nullptr ? "" : std::string(",") + metric.label) + "} " +
          number_text(metric, *value) + "\n";
}

// The times that barriers took, of which QEMU tells quantiles. Those of one node stand together.
void append_pauses(const Json& nodes, std::string& text) {
  constexpr std::array<std::pair<const char*, const char*>, 3> kQuantiles = {
      {{"pause-p50-ns", "0.5"}, {"pause-p99-ns", "0.99"}, {"pause-max-ns", "1.0"}}};
  std::string samples;
  for (const Json& node : nodes) {
    for (const auto& [field, quantile] : kQuantiles) {
      const std::string label = std::string("quantile=\"") + quantile + "\"";
      append_sample({"barrier_pause", "epochs", field, kGauge, Unit::kSeconds, "", label.c_str()},
                    node, samples);
    }
  }
  if (samples.empty()) return;
  text +=
      "# TYPE pcow_barrier_pause_seconds summary\n# UNIT pcow_barrier_pause_seconds seconds\n"
      "# HELP pcow_barrier_pause_seconds How long the guest rested for an epoch.\n" +
      samples;
}

// The first one of a family has it.
const char* help_of(const Metric& metric) {
  const std::string_view name = metric.name;
  return std::ranges::find_if(kMetrics, [&](const Metric& m) { return m.name == name; })->help;
}

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

// Adds what the policies did to the nodes. A QEMU that has none is no error.
void add_moves(Json& nodes, const pcow::Result<Json>& policies) {
  if (!policies) {
    if (policies.error().code == pcow::Code::kUnsupported) return;
    throw tools::Failure(policies.error().message);
  }
  const Json known = tools::value_or_fail(select_nodes(*policies, ""));
  for (Json& node : nodes) {
    for (const Json& policy : known) {
      const auto moves = policy.find("moves");
      if (text_field(policy, "id") == text_field(node, "id") && moves != policy.end()) {
        node["moves"] = *moves;
      }
    }
  }
}

}  // namespace

int run_metrics(const std::vector<std::string>& args) {
  NodeArguments arguments("tierctl metrics",
                          "Prints what QEMU tells of the pcow nodes of a running guest as "
                          "OpenMetrics text, for Prometheus and the like.",
                          std::chrono::seconds(10));
  if (!arguments.parse(args)) return tools::kExitOk;
  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  const Json all =
      tools::value_or_fail(client.execute("query-pcow", Json::object(), arguments.timeout));
  Json nodes = tools::value_or_fail(select_nodes(all, arguments.node));
  add_moves(nodes, client.execute("query-pcow-policy", Json::object(), arguments.timeout));
  if (arguments.output == tools::Output::kJson) {
    std::printf("%s\n", tools::json_text(nodes).c_str());
  } else {
    const std::string text = metrics_text(nodes);
    std::fwrite(text.data(), 1, text.size(), stdout);  // an id may hold any character
  }
  return tools::kExitOk;
}

}  // namespace tierctl
