// An operation's kernels in one table, the best first: the first one whose set runs here, and that can do the call, is taken.
#pragma once

#include <string>
#include <vector>

#include "common/cpu_features.h"

namespace esat {

// Call: what else decides, such as a data type; nothing for most operations.
template <class Kernel, class... Call>
struct Entry {
  Set set;
  const Kernel* kernel;
  bool (*fits)(const Call&...) = nullptr;  // null: every call

  bool can(const Call&... call) const { return fits == nullptr || fits(call...); }
};

template <class Kernel, class... Call>
using Table = std::vector<Entry<Kernel, Call...>>;

// Null if there is none.
template <class Kernel, class... Call>
const Kernel* best(const Table<Kernel, Call...>& table, Features have, const Call&... call) {
  for (const auto& entry : table) {
    if (entry.set.runs_on(have) && entry.can(call...)) return entry.kernel;
  }
  return nullptr;
}

// A row of the report: the sets that an operation has kernels for, the best first, and the one that is taken (null: none).
struct Choice {
  std::string operation;
  std::vector<const char*> sets;
  const char* chosen;
};

template <class Kernel, class... Call>
Choice choice(const std::string& operation, const Table<Kernel, Call...>& table, Features have, const Call&... call) {
  Choice row{operation, {}, nullptr};
  for (const auto& entry : table) {
    if (!entry.can(call...)) continue;
    row.sets.push_back(entry.set.name);
    if (row.chosen == nullptr && entry.set.runs_on(have)) row.chosen = entry.set.name;
  }
  return row;
}

}  // namespace esat
