// SPDX-License-Identifier: Apache-2.0
#include "cuda_on_host/devices.h"

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

namespace nightshift::simulated {
namespace {

// Numbers in the machine, in the order in which the process sees them. The first unknown one ends the list.
std::vector<int> visible() {
  const char* machine = std::getenv("NIGHTSHIFT_SIMULATED_GPUS");
  const int all = machine == nullptr ? 1 : std::atoi(machine);
  const char* chosen = std::getenv("CUDA_VISIBLE_DEVICES");
  std::vector<int> devices;
  if (chosen == nullptr) {
    for (int i = 0; i < all; ++i) devices.push_back(i);
    return devices;
  }
  std::istringstream list(chosen);
  for (std::string entry; std::getline(list, entry, ',');) {
    char* end = nullptr;
    const long number = std::strtol(entry.c_str(), &end, 10);
    if (end == entry.c_str() || *end != '\0' || number < 0 || number >= all) break;
    devices.push_back(static_cast<int>(number));
  }
  return devices;
}

}  // namespace

int device_count() {
  return static_cast<int>(visible().size());
}

bool set_device(int device) {
  const std::vector<int> devices = visible();
  if (device < 0 || device >= static_cast<int>(devices.size())) return false;
  const std::string number = std::to_string(devices[static_cast<std::size_t>(device)]);
  return ::setenv(kCurrentDevice, number.c_str(), 1) == 0;
}

bool bus_address(int device, char* address, std::size_t bytes) {
  const std::vector<int> devices = visible();
  if (device < 0 || device >= static_cast<int>(devices.size())) return false;
  const int length =
      std::snprintf(address, bytes, "0000:%02x:00.0", devices[static_cast<std::size_t>(device)]);
  return length > 0 && static_cast<std::size_t>(length) < bytes;
}

}  // namespace nightshift::simulated
