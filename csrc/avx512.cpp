#define ATTNCONV_WIDTH 16
#define ATTNCONV_TILE_VECTORS 4
#define ATTNCONV_UNIT attnconv_unit_avx512
#define ATTNCONV_NAME "avx512"
#include "kernel.h"
