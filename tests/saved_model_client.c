/* Runs one signature of a SavedModel through TensorFlow's C++ loader, the one that servers use.

   saved_model_client FOLDER image|bytes INPUT PROBABILITIES LABEL FILE N SIDE

   INPUT, PROBABILITIES and LABEL are names of operations, each with ":index". "image" reads N
   pictures of SIDE x SIDE RGB pixels from FILE, "bytes" takes the file as one picture. Prints the
   probabilities, one a line, then the labels. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

static void check(TF_Status *status) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "%s\n", TF_Message(status));
    exit(1);
  }
}

static TF_Output named(TF_Graph *graph, const char *name) {
  char operation[256];
  const char *colon = strrchr(name, ':');
  snprintf(operation, sizeof operation, "%.*s", (int)(colon - name), name);
  TF_Output output = {TF_GraphOperationByName(graph, operation), atoi(colon + 1)};
  return output;
}

static TF_Tensor *read_input(const char *kind, const char *path, int64_t n, int64_t side) {
  FILE *file = fopen(path, "rb");
  fseek(file, 0, SEEK_END);
  size_t length = ftell(file);
  rewind(file);
  char *data = malloc(length);
  if (fread(data, 1, length, file) != length) exit(2);
  fclose(file);
  TF_Tensor *tensor;
  if (!strcmp(kind, "image")) {
    int64_t shape[] = {n, side, side, 3};
    tensor = TF_AllocateTensor(TF_UINT8, shape, 4, length);
    memcpy(TF_TensorData(tensor), data, length);
  } else {
    int64_t shape[] = {1};
    tensor = TF_AllocateTensor(TF_STRING, shape, 1, sizeof(TF_TString));
    TF_StringInit(TF_TensorData(tensor));
    TF_StringCopy(TF_TensorData(tensor), data, length);
  }
  free(data);
  return tensor;
}

int main(int count, char **arguments) {
  if (count != 9) return 2;
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  const char *tags[] = {"serve"};
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, arguments[1], tags, 1, graph,
                                                     NULL, status);
  check(status);
  TF_Output input = named(graph, arguments[3]);
  TF_Output wanted[] = {named(graph, arguments[4]), named(graph, arguments[5])};
  TF_Tensor *given = read_input(arguments[2], arguments[6], atoll(arguments[7]),
                                atoll(arguments[8]));
  TF_Tensor *answers[2];
  TF_SessionRun(session, NULL, &input, &given, 1, wanted, answers, 2, NULL, 0, NULL, status);
  check(status);
  const float *probabilities = TF_TensorData(answers[0]);
  for (int64_t i = 0; i < TF_TensorElementCount(answers[0]); i++)
    printf("%.9g\n", probabilities[i]);
  TF_TString *labels = TF_TensorData(answers[1]);
  for (int64_t i = 0; i < TF_TensorElementCount(answers[1]); i++)
    printf("%.*s\n", (int)TF_StringGetSize(&labels[i]), TF_StringGetDataPointer(&labels[i]));
  return 0;
}
