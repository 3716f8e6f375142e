{{- define "jreg.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "jreg.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "jreg.selectorLabels" -}}
app.kubernetes.io/name: {{ include "jreg.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "jreg.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "jreg.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Metadata of an object: (dict "root" $ "name" "-suffix" "labels" {} "annotations" {}) */}}
{{- define "jreg.metadata" -}}
name: {{ include "jreg.fullname" .root }}{{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "jreg.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $annotations := merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "jreg.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "jreg.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "jreg.isS3" -}}
{{- if eq .Values.storage.type "s3" }}true{{ end }}
{{- end }}

{{- define "jreg.hasTls" -}}
{{- if or .Values.tls.existingSecret .Values.tls.acme.domains }}true{{ end }}
{{- end }}

{{- define "jreg.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{- define "jreg.storage" -}}
{{- if include "jreg.isS3" . }}
{{- $s3 := .Values.storage.s3 }}
{{- $options := dict }}
{{- with $s3.endpoint }}{{ $_ := set $options "endpoint" . }}{{ end }}
{{- with $s3.region }}{{ $_ := set $options "region" . }}{{ end }}
{{- range $key, $value := $s3.options }}{{ $_ := set $options $key $value }}{{ end }}
{{- $query := list }}
{{- range $key, $value := $options }}{{ $query = append $query (printf "%s=%v" $key $value) }}{{ end }}
{{- printf "s3://%s" (required "storage.s3.bucket is needed" $s3.bucket) }}
{{- with $s3.prefix }}/{{ trimAll "/" . }}{{ end }}
{{- with $query }}?{{ join "&" . }}{{ end }}
{{- else -}}
/data
{{- end }}
{{- end }}

{{- /* The configuration file: what the chart sets, under what the values set. */}}
{{- define "jreg.config" -}}
{{- $config := dict "listen" ":5000" "admin-listen" (printf ":%v" .Values.metrics.port) "storage" (include "jreg.storage" .) "log-format" "json" "shutdown-delay" .Values.shutdownDelay "shutdown-deadline" .Values.shutdownDeadline }}
{{- if .Values.auth.insecureOpen }}{{ $_ := set $config "insecure-open" true }}{{ end }}
{{- if .Values.auth.anonymousPull }}{{ $_ := set $config "anonymous-pull" true }}{{ end }}
{{- if include "jreg.htpasswd" . }}{{ $_ := set $config "htpasswd" (printf "/etc/jreg/users/%s" .Values.auth.htpasswd.key) }}{{ end }}
{{- if or .Values.auth.policy.existingConfigMap .Values.auth.policy.content }}{{ $_ := set $config "policy" (printf "/etc/jreg/policy/%s" .Values.auth.policy.key) }}{{ end }}
{{- if or .Values.lifecycle.existingConfigMap .Values.lifecycle.content }}{{ $_ := set $config "lifecycle" (printf "/etc/jreg/lifecycle/%s" .Values.lifecycle.key) }}{{ end }}
{{- if .Values.tls.existingSecret }}
{{- $_ := set $config "tls-cert" "/etc/jreg/tls/tls.crt" }}
{{- $_ := set $config "tls-key" "/etc/jreg/tls/tls.key" }}
{{- end }}
{{- with .Values.tls.acme.domains }}{{ $_ := set $config "acme-domains" . }}{{ end }}
{{- with .Values.tls.acme.contact }}{{ $_ := set $config "acme-contact" . }}{{ end }}
{{- range $key, $value := .Values.config }}{{ $_ := set $config $key $value }}{{ end }}
{{- toToml $config }}
{{- end }}

{{- define "jreg.htpasswd" -}}
{{- if .Values.auth.htpasswd.existingSecret }}{{ .Values.auth.htpasswd.existingSecret }}{{ else if .Values.auth.htpasswd.content }}{{ include "jreg.fullname" . }}-users{{ end }}
{{- end }}

{{- define "jreg.s3Secret" -}}
{{- if .Values.storage.s3.existingSecret }}{{ .Values.storage.s3.existingSecret }}{{ else if .Values.storage.s3.accessKeyId }}{{ include "jreg.fullname" . }}-s3{{ end }}
{{- end }}

{{- define "jreg.pod" -}}
metadata:
  labels:
    {{- include "jreg.selectorLabels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Settings are read at the start; users, rules and certificates are reloaded when they change.
    checksum/config: {{ include "jreg.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "jreg.serviceAccountName" . }}
  automountServiceAccountToken: {{ .Values.serviceAccount.automount }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: jreg
      image: {{ include "jreg.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/jreg/config/jreg.toml]
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      env:
        # What the image sets is set in the configuration file.
        - name: JREG_LISTEN
          value: ""
        - name: JREG_STORAGE
          value: ""
        {{- if and (include "jreg.isS3" .) (include "jreg.s3Secret" .) }}
        - name: JREG_S3_ACCESS_KEY_ID
          valueFrom:
            secretKeyRef:
              name: {{ include "jreg.s3Secret" . }}
              key: accessKeyId
        - name: JREG_S3_SECRET_ACCESS_KEY_FILE
          value: /etc/jreg/s3/secretAccessKey
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: registry
          containerPort: 5000
        - name: metrics
          containerPort: {{ .Values.metrics.port }}
      livenessProbe:
        httpGet:
          path: /livez
          port: metrics
        {{- toYaml .Values.livenessProbe | nindent 8 }}
      readinessProbe:
        httpGet:
          path: /readyz
          port: metrics
        {{- toYaml .Values.readinessProbe | nindent 8 }}
      startupProbe:
        httpGet:
          path: /livez
          port: metrics
        {{- toYaml .Values.startupProbe | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        # Folders, never subPath: a file mounted by subPath does not change when the secret does.
        - name: config
          mountPath: /etc/jreg/config
          readOnly: true
        {{- if not (include "jreg.isS3" .) }}
        - name: data
          mountPath: /data
        {{- else if include "jreg.s3Secret" . }}
        - name: s3
          mountPath: /etc/jreg/s3
          readOnly: true
        {{- end }}
        {{- if include "jreg.htpasswd" . }}
        - name: users
          mountPath: /etc/jreg/users
          readOnly: true
        {{- end }}
        {{- if or .Values.auth.policy.existingConfigMap .Values.auth.policy.content }}
        - name: policy
          mountPath: /etc/jreg/policy
          readOnly: true
        {{- end }}
        {{- if or .Values.lifecycle.existingConfigMap .Values.lifecycle.content }}
        - name: lifecycle
          mountPath: /etc/jreg/lifecycle
          readOnly: true
        {{- end }}
        {{- if .Values.tls.existingSecret }}
        - name: tls
          mountPath: /etc/jreg/tls
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "jreg.fullname" . }}
    {{- if include "jreg.isS3" . }}
    {{- with include "jreg.s3Secret" . }}
    - name: s3
      secret:
        secretName: {{ . }}
    {{- end }}
    {{- else if not .Values.persistence.enabled }}
    - name: data
      emptyDir: {}
    {{- else if .Values.persistence.existingClaim }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ .Values.persistence.existingClaim }}
    {{- end }}
    {{- with include "jreg.htpasswd" . }}
    - name: users
      secret:
        secretName: {{ . }}
    {{- end }}
    {{- if or .Values.auth.policy.existingConfigMap .Values.auth.policy.content }}
    - name: policy
      configMap:
        name: {{ default (printf "%s-policy" (include "jreg.fullname" .)) .Values.auth.policy.existingConfigMap }}
    {{- end }}
    {{- if or .Values.lifecycle.existingConfigMap .Values.lifecycle.content }}
    - name: lifecycle
      configMap:
        name: {{ default (printf "%s-lifecycle" (include "jreg.fullname" .)) .Values.lifecycle.existingConfigMap }}
    {{- end }}
    {{- with .Values.tls.existingSecret }}
    - name: tls
      secret:
        secretName: {{ . }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    - {{- toYaml . | nindent 6 }}
      {{- if not .labelSelector }}
      labelSelector:
        matchLabels:
          {{- include "jreg.selectorLabels" $ | nindent 10 }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}
