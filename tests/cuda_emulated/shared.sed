s/extern +__shared__ +(.*[^A-Za-z0-9_])([A-Za-z0-9_]+)\[\];/EMULATED_DYNAMIC_SHARED(\1, \2);/
